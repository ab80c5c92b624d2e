"""The generated reference, navigation and links: nothing is missing, nothing leads nowhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from documentation_pages import DOCS, GENERATED, ROOT, written_pages

sys.path.insert(0, str(DOCS / "generate"))
import product  # the generator's own view of the code, checked below against pytest's and files

sys.path.pop(0)

Page = Callable[[str], str]


@pytest.fixture(scope="session")
def site_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of docs/ with the reference written into it."""
    docs = tmp_path_factory.mktemp("site") / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("reference", "__pycache__"))
    subprocess.run([sys.executable, str(DOCS / "generate"), str(docs / "reference")], check=True)
    return docs


@pytest.fixture(scope="session")
def page(site_source: Path) -> Page:
    return lambda name: (site_source / "reference" / f"{name}.md").read_text(encoding="utf-8")


def row(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with this cell."""
    (found,) = re.findall(rf"^\| `{re.escape(first)}` \|(.*)\|$", text, flags=re.MULTILINE)
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", found)]


def test_every_option_has_a_row(page: Page) -> None:
    text = page("options")
    for option in product.options():
        shown = " ".join(filter(None, [option.flag, option.metavar]))
        ini = row(text, shown)[0]
        assert ini == (f"`{option.key}`" if option.ini else "–")


def test_every_key_of_the_configuration_has_a_row(page: Page) -> None:
    text = page("configuration")
    for name, definition in product.release_schema()["$defs"].items():
        for key in definition["properties"]:
            assert f"| `{key}` |" in text or f".{key}]" in text, f"{name}.{key}"


def test_every_metric_has_its_unit_rule_and_direction(page: Page) -> None:
    text = page("metrics").partition("## Default budgets")[0]
    found = [metric for metrics in product.metrics().values() for metric in metrics]
    assert len(found) > 40
    for metric in found:
        unit, rule, direction, meaning = row(text, metric.name)
        assert (unit, rule) == (metric.unit, metric.rule)
        assert direction == ("at least" if metric.higher_is_better else "at most")
        assert meaning


def test_every_default_budget_is_shown(page: Page) -> None:
    text = page("metrics").partition("### Models below a billion parameters")[2]
    text = text.partition("### Larger models")[0]
    header = next(line for line in text.splitlines() if line.startswith("| metric |"))
    columns = [re.findall(r"`([^`]+)`", cell) for cell in header.split("|")[2:-1]]
    for form, limits in product.default_budgets(parameters=135_000_000).items():
        column = next(i for i, formats in enumerate(columns) if form in formats)
        for metric, limit in limits.items():
            assert row(text, metric)[column] == f"{limit:g}"


def test_every_gate_has_a_section_with_its_metrics(page: Page) -> None:
    text = page("gates")
    assert {metric.name for gate in product.gates() for metric in gate.metrics} == {
        metric.name for metrics in product.metrics().values() for metric in metrics
    }
    for gate in product.gates():
        section = text.partition(f"\n## {gate.name}\n")[2].partition("\n## ")[0]
        assert section.strip()
        for metric in gate.metrics:
            assert f"`{metric.name}`" in section
    for capability in product.capabilities():
        assert row(text, capability.value)[0]  # a meaning


def test_every_quantization_has_its_options_and_extra(page: Page) -> None:
    text = page("quantizations")
    for form in product.quantizations():
        *_, options, install = row(text, form.name)
        assert set(re.findall(r"`([^`]+)`", options)) == set(form.options or ())
        assert install == (f"`pytest-infopt[{form.extra}]`" if form.extra else "–")
        extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert form.extra is None or f"\n{form.extra} = [" in extras


def test_every_suite_has_its_capabilities_and_properties(page: Page) -> None:
    text = page("suites")
    found = product.suites()
    assert len(found) >= 20
    for suite in found:
        section = text.partition(f"\n## {suite.name}\n")[2].partition("\n## ")[0]
        assert f"Topic: `{suite.topic}`" in section
        # An attribute of the suite may have the name of a capability, and a row before these.
        claims, _, properties = section.partition("| property |")
        claims = claims.partition("| capability |")[2]
        for name in suite.capabilities:
            assert row(claims, name)[0]
        for name in suite.properties:
            assert row(properties, name)[0]


def test_every_fixture_is_described(page: Page, pytester: pytest.Pytester) -> None:
    """pytest lists the fixtures of the plugin; the page has the same."""
    text = page("fixtures")
    listed = pytester.runpytest_inprocess("--fixtures", "-p", "no:cacheprovider").outlines
    ours = {line.split()[0] for line in listed if "pytest_infopt/" in line and " -- " in line}
    assert len(ours) >= 10
    assert ours == set(re.findall(r"^### (\w+)$", text, flags=re.MULTILINE))
    for marker in product.markers():
        assert marker.split(": ")[0] in text


def test_every_exit_status_has_a_row(page: Page) -> None:
    text = page("exit-statuses")
    for statuses in product.exit_statuses():
        for status in statuses:
            assert f"| {int(status)} |" in text


def test_every_field_of_a_result_has_a_row(page: Page) -> None:
    text = page("result-json")
    schema = product.result_schema()
    for definition in [schema, *schema["$defs"].values()]:
        for field in definition.get("properties", ()):
            assert f"| `{field}` |" in text


def test_every_public_name_has_a_row(page: Page) -> None:
    text = page("api")
    for package in product.public_packages():
        section = text.partition(f"\n## {package}\n")[2].partition("\n## ")[0]
        for name in product.public_names(package):
            assert re.search(rf"^\| `{name}\b", section, flags=re.MULTILINE), f"{package}.{name}"


def test_every_group_of_entry_points_is_described(page: Page) -> None:
    text = page("entry-points")
    for group in product.ENTRY_POINT_GROUPS:
        section = text.partition(f"\n## {group}\n")[2].partition("\n## ")[0]
        for name in product.registered(group):
            assert row(section, name)


def test_every_page_is_in_the_navigation(site_source: Path) -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = set(re.findall(r"[\w/-]+\.md", str(nav)))
    assert named == {str(path.relative_to(site_source)) for path in site_source.rglob("*.md")}


@pytest.mark.parametrize("path", written_pages(), ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path, site_source: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if GENERATED in target.parents:
            assert DOCS in path.parents, f"{link}: not in the repository, so only pages link to it"
            target = site_source / target.relative_to(DOCS)
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), flags=re.MULTILINE)
            assert anchor in map(slug, headings), link


def slug(heading: str) -> str:
    """The anchor that MkDocs gives a heading."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def test_the_site_builds_without_a_warning(site_source: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", site_source.parent)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    run = subprocess.run(
        command,
        cwd=site_source.parent,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr
    assert (site_source.parent / "site" / "reference" / "options" / "index.html").is_file()
