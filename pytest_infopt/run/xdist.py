"""A run shared by pytest-xdist's workers: one run folder, one description of the models."""

from __future__ import annotations

from typing import Any

import pytest

from .session import InfoptSession


class XdistHooks:
    """Joins the controller and its workers."""

    def __init__(self, session: InfoptSession) -> None:
        self._session = session
        self._shared = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        self._shared = True
        node.workerinput["infopt_directory"] = str(self._session.directory)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # A worker that crashed leaves no output; its items are reported as failed by xdist.
        output = getattr(node, "workeroutput", None) or {}
        for candidate, description in output.get("infopt_description", {}).items():
            self._session.learn(candidate, description)
        self._session.faults += output.get("infopt_faults", [])
        if "infopt_scope" in output:
            self._session.scope.join(output["infopt_scope"])

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["infopt_description"] = self._session.descriptions
            output["infopt_scope"] = self._session.scope.to_json()
            output["infopt_faults"] = self._session.known_faults()
        if self._shared and not self._session.scope.learned:
            self._session.faults.append(
                "no xdist worker came to its end, so nobody knows what was to run; run with -n0"
            )
