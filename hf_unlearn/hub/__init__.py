"""Model cards, and uploads to the Hub that name nobody who was forgotten."""

from .upload import HubError, push_folder

__all__ = ["HubError", "push_folder"]
