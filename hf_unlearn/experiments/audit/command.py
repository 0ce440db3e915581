"""The command `hf-unlearn audit`, and the rule that decides its exit code."""

import argparse
import dataclasses
from collections.abc import Sequence

from ...report.audit_ranking import rule_numbers
from ...trainer import Rule
from .doors import DOORS
from .run_audit import audit
from .settings import FAILED, AuditSettings

# What a rule may name besides the numbers of single doors (see `audit_ranking.rule_numbers`).
NUMBERS = ("worst_gap", "surest_gap", "conspicuous_gap", "least_forgotten")


def run(arguments: argparse.Namespace) -> int:
    """Audits, and returns the exit code.

    Raises:
        ValueError: as `audit`; or the rule cannot be read, names a number that this audit does not
            have, or does not hold although doors have failed, so that the audit is not complete.
    """
    rule = read_rule(arguments.fail_when)
    chosen = {
        option.name: getattr(arguments, option.name) for option in dataclasses.fields(AuditSettings)
    }
    content = audit(
        arguments.folder,
        arguments.config,
        settings=AuditSettings(**chosen),
        doors=arguments.doors,
    )
    if rule is None:
        return 0
    if holds(rule, content):
        return FAILED
    refuse_failed_doors(content, arguments.doors)
    return 0


def read_rule(text: str | None) -> Rule | None:
    """The rule, before anything is measured.

    Raises:
        ValueError: it cannot be read, or names a number that no audit has.
    """
    if not text:
        return None
    rule = Rule.parse(text)
    numbers = {f"{door}_{number}" for door in DOORS for number in ("gap", "forgotten")}
    numbers |= set(NUMBERS)
    named = [rule.metric, *([rule.value] if isinstance(rule.value, str) else [])]
    if unknown := [name for name in named if name not in numbers]:
        raise ValueError(
            f"fail_when is {text!r}, but {unknown[0]} is none of {', '.join(NUMBERS)}, <door>_gap "
            f"and <door>_forgotten, where the doors are {', '.join(DOORS)}"
        )
    return rule


def holds(rule: Rule, content: dict) -> bool:
    """Whether a rule holds; says so.

    Raises:
        ValueError: it names a number that this audit does not have.
    """
    numbers = rule_numbers(content)
    if missing := [name for name in rule.metrics if name not in numbers]:
        raise ValueError(
            f"fail_when is {str(rule)!r}, but this audit has no {missing[0]}: it has "
            f"{', '.join(numbers) or 'no numbers'}"
        )
    failed = rule.holds(numbers)
    values = ", ".join(f"{name} is {numbers[name]:.4g}" for name in rule.metrics)
    print(f"\nfail_when {rule}: {values}, so the audit {'FAILS' if failed else 'passes'}.")
    return failed


def refuse_failed_doors(content: dict, asked: Sequence[str]) -> None:
    """Refuses to let an audit pass whose doors could not all be measured.

    Args:
        asked: the doors that were asked for; all if it is empty.

    Raises:
        ValueError: one has failed with an error.
    """
    doors = content["doors"]
    failed = [name for name in asked or doors if "failed" in doors.get(name, {})]
    if failed:
        raise ValueError(
            f"the audit cannot pass, because doors FAILED: {', '.join(failed)}. Find the reason "
            "above, or name the doors that decide in --doors"
        )
