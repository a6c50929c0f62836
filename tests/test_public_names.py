"""The public names of the package: what `__all__` says is what there is."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import proxy


def test_all_lists_what_the_package_offers() -> None:
    """Every public name that is no submodule stands in `__all__`, sorted, and nothing else does."""
    for name in proxy.__all__:
        getattr(proxy, name)  # some are not there before
    offered = {
        name
        for name, value in vars(proxy).items()
        if not isinstance(value, ModuleType) and not name.startswith("_") and name != "annotations"
    }
    assert offered | {"__version__"} == set(proxy.__all__)
    assert sorted(proxy.__all__) == proxy.__all__


def test_what_is_imported_later_is_what_it_is_called() -> None:
    """At the first time that it is asked for, too."""
    for name in ("Attempt", "Call", "Caller", "Proxy", "Stream", "Times", "Usage", "create_app"):
        vars(proxy).pop(name, None)
        assert getattr(proxy, name).__name__ == name
        assert name in vars(proxy)


def test_other_names_are_none_of_ours() -> None:
    """A misspelt one is told at once."""
    with pytest.raises(AttributeError, match="no attribute 'creat_app'"):
        _ = proxy.creat_app


def test_public_names_have_docstrings() -> None:
    """What users see first explains itself."""
    for name in set(proxy.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(proxy, name)), name


def test_further_arguments_are_keyword_only() -> None:
    """After the first two of `Proxy`, after the first of `init_app` and `create_app`."""
    for function, positional in ((proxy.Proxy, 2), (proxy.create_app, 1)):
        kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
        assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) == positional
    parameters = inspect.signature(proxy.Proxy.init_app).parameters
    assert parameters["url_prefix"].kind is inspect.Parameter.KEYWORD_ONLY


def test_package_needs_no_server_to_be_imported() -> None:
    """gunicorn and the command line are not for embedding applications."""
    code = "import proxy, sys; print([m for m in sys.modules if m.startswith('gunicorn')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
