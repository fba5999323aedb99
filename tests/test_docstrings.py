"""What users call is documented: every argument by name, what comes back, what is raised. The linter does the rest.

The linter sees that sections are complete where there are any; this sees that there are any, for all that the two
packages show, methods included, and for the parts of a schedule.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator

import pytest

import meshkernels as mk
import perfmodel as pm
from meshkernels import schedules


def _functions() -> Iterator[tuple[str, object]]:
    for name, package in (("mk", mk), ("pm", pm), ("schedules", schedules)):
        for item in package.__all__:
            shown = getattr(package, item)
            if inspect.isfunction(shown):
                yield f"{name}.{item}", shown
            elif inspect.isclass(shown) and not issubclass(shown, BaseException):
                yield f"{name}.{item}", shown
                for method, value in vars(shown).items():
                    value = getattr(value, "__func__", value)  # of a class or static method
                    if inspect.isfunction(value) and not method.startswith("_"):
                        yield f"{name}.{item}.{method}", value


def _named(section: str, doc: str) -> set[str]:
    """The names that a section of a docstring explains."""
    found = re.search(rf"^{section}:\n((?:[ ]+[^\n]*\n|\n)*)", doc + "\n", re.M)
    return set() if not found else {
        name.strip("`* ") for names in re.findall(r"^ {4}([\w*`, ]+):", found[1], re.M) for name in names.split(",")}


@pytest.mark.parametrize("name, shown", list(_functions()), ids=lambda value: value if isinstance(value, str) else "")
def test_everything_shown_is_documented(name, shown):
    doc = inspect.getdoc(shown) or ""
    assert doc, f"{name} has no docstring"
    if inspect.isclass(shown):
        if dataclasses.is_dataclass(shown):
            wanted = {field.name for field in dataclasses.fields(shown) if not field.name.startswith("_")}
        else:
            wanted = set(inspect.signature(shown).parameters)
    else:
        wanted = set(inspect.signature(shown).parameters) - {"self", "cls"}
        returns = inspect.signature(shown).return_annotation
        if returns not in (None, "None"):
            assert re.search(r"^(Returns|Yields):$", doc, re.M), f"{name} does not say what it returns"
    missing = wanted - _named("Args", doc) - _named("Attributes", doc)
    assert not missing, f"{name} does not explain {', '.join(sorted(missing))}"
