"""Uploading to the Hub, with nobody named who is forgotten."""

from .upload import HubError, push_folder

__all__ = ["HubError", "push_folder"]
