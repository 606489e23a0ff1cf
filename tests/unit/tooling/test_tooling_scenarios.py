"""The account of the scenarios in ``docs/reliability.md`` is made from the tests, which it can't outgrow."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "tools" / "generate_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_each_way_in_which_listmonk_loses_people_has_one_test(tool: ModuleType) -> None:
    lettered = [each for each in tool.scenarios_in(ROOT / "tests" / "scenarios") if each.letter]
    assert sorted(each.letter for each in lettered) == list("ABCDEFGHIJK")
    assert all(each.listmonk for each in lettered)


def test_a_scenario_that_does_not_say_what_fullsend_does_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text('def test_it():\n    """A. Something happens."""\n')
    with pytest.raises(SystemExit, match="test_it"):
        tool.scenarios_in(tmp_path)


def test_the_made_part_of_a_page_is_replaced_and_the_rest_is_left_alone(tool: ModuleType) -> None:
    page = "# Title\n<!-- made: x -->\nold\n<!-- end: x -->\nby hand\n"
    made = tool.with_sections(page, {"x": lambda: iter(["new", "lines"])})
    assert made == "# Title\n<!-- made: x -->\nnew\nlines\n<!-- end: x -->\nby hand\n"
    with pytest.raises(ValueError, match="marks of `y`"):
        tool.with_sections(page, {"y": lambda: iter([])})
