"""The page of results: what one command writes there, the other one keeps."""

from __future__ import annotations

from bench.report import SCALE, scale_of, with_scale

PAGE = "# Benchmark results\n\n| a |\n| --- |\n"
SECTION = f"{SCALE}\n\nWritten by another command.\n"


def test_section_on_scale_outlives_the_rest_of_the_page() -> None:
    """It is at the end, once, and goes with nothing else."""
    page = with_scale(PAGE, SECTION)
    assert page == f"{PAGE}\n{SECTION}"
    assert scale_of(page) == SECTION
    assert with_scale("# Other results\n", scale_of(page)) == f"# Other results\n\n{SECTION}"
    assert with_scale(page, f"{SCALE}\n\nNew.\n") == f"{PAGE}\n{SCALE}\n\nNew.\n"
    assert with_scale(page, "") == PAGE
    assert scale_of(PAGE) == ""
    assert with_scale(PAGE, scale_of(PAGE)) == PAGE
