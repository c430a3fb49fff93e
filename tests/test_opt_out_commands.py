"""`starter.py opt-outs …` as operators use it: results, exit codes, and no number in what goes wrong."""

import csv
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline import Site, Sites, phone
from tests.test_analyses import command

ORGANIZATION = ("--organization", "org7")


@pytest.fixture
async def site(sites: Sites) -> Site:
    site = await sites()
    site.add_leads(1)
    site.add_leads(1, first=2, organization="org8")
    return site


async def run(*arguments: str, code: int = 0) -> Any:
    """The result of a command, or its line on stderr."""
    result = await command("opt-outs", *arguments, *ORGANIZATION, *["--json"] * (code == 0))
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else result.stderr


async def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await run("list", *arguments))["opt_outs"]
    return found


async def test_a_number_from_its_entry_to_its_lifting(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "li")
    assert await run("check", phone(1)) == {"opted_out": False, "opt_out": None}
    assert await run("add", phone(1), "--reason", "来信") == {"added": True}
    assert await run("add", f"+86 {phone(1)}") == {"added": False}
    assert await run("add", phone(2), "--by", "客服小王") == {"added": True}
    assert (await run("check", phone(1)))["opt_out"]["evidence"] == "来信"
    assert [(one["phone"], one["created_by"]) for one in await listed()] == [
        (f"+86{phone(1)}", "li"),
        (f"+86{phone(2)}", "客服小王"),
    ]
    assert (await run("lift", phone(1), "--reason", "客户来电"))["opt_out"]["lift_reason"] == "客户来电"
    assert [one["phone"] for one in await listed("--lifted")] == [f"+86{phone(1)}"]
    assert len(await listed("--all")) == 2 and await listed("--disputed") == []
    assert (await run("list", "--all", "--limit", "1"))["next"] == (await listed("--all"))[0]["id"]
    shown = (await command("opt-outs", "list", *ORGANIZATION, "--all")).stdout
    assert phone(1) in shown and "客户来电" in shown and "客服小王" in shown
    assert (await command("opt-outs", "list", "--organization", "org8")).stdout == "none\n"


async def test_what_is_wrong_is_one_line_without_the_number(site: Site) -> None:
    for arguments in (
        ("add", "139****0001"),
        ("check", "1390000000"),
        ("lift", "13900000001/13900000002", "--reason", "r"),
        ("lift", phone(1), "--reason", " "),
        ("add", phone(1), "--reason", "x" * 1001),
        ("add", phone(1), "--by", "x" * 192),
    ):
        said = await run(*arguments, code=2)
        assert said.startswith("starter: ") and said.count("\n") == 1 and "139" not in said
    assert "not opted out" in await run("lift", phone(1), "--reason", "r", code=1)
    for organization in ("", "org7 "):
        wrong = await command("opt-outs", "list", "--organization", organization)
        assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert (await command("opt-outs", "list", *ORGANIZATION, "--all", "--lifted")).exit_code == 2
    assert (await command("opt-outs", "lift", phone(1), *ORGANIZATION)).exit_code == 2
    assert (await command("opt-outs", "import", "no-such-file", *ORGANIZATION)).exit_code == 2
    assert site.sql("SELECT 1 FROM call_opt_outs") == []


async def test_an_organisation_that_nobody_knows_is_refused(site: Site, tmp_path: Path) -> None:
    """What is entered for it would protect nobody."""
    file = tmp_path / "list.csv"
    file.write_text(phone(1))
    for name in ("org-7", "ORG7", "7"):
        for arguments in (("add", phone(1)), ("import", str(file))):
            wrong = await command("opt-outs", *arguments, "--organization", name)
            assert wrong.exit_code == 2 and "no call task and no lead" in wrong.stderr and "139" not in wrong.stderr
    assert site.sql("SELECT 1 FROM call_opt_outs") == []
    site.sql("INSERT INTO call_tasks (task_name, organization_id, task_type) VALUES ('t', '7', 1)")
    assert (await command("opt-outs", "add", phone(1), "--organization", "7")).exit_code == 0


async def test_a_list_goes_in_whole_or_not_at_all(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"phone,reason\n{phone(1)},来信\nx,\n{phone(2)},\n", encoding="gb18030")
    assert ": 3; nothing was imported" in await run("import", str(file), code=2)
    assert site.sql("SELECT 1 FROM call_opt_outs") == []
    await run("add", phone(1), "--reason", "earlier")
    file.write_text(f"phone,reason\n{phone(1)},来信\n{phone(2)},\n+86{phone(2)},又一次\n", encoding="gb18030")
    assert await run("import", str(file), "--by", "wang") == {"numbers": 2, "added": 1}
    assert await run("import", str(file)) == {"numbers": 2, "added": 0}
    assert [(one["evidence"], one["source"], one["created_by"]) for one in await listed()][1:] == [
        ("", "import", "wang")
    ]


async def test_a_list_of_many_numbers_is_a_few_statements_and_one_transaction(site: Site, tmp_path: Path) -> None:
    """The connection is lost in the middle: nothing of it is there. Then it goes through."""
    file = tmp_path / "list.csv"
    file.write_text("phone\n" + "\n".join(phone(n) for n in range(20_000)))
    site.sql("ALTER TABLE call_opt_outs ADD CONSTRAINT broken CHECK (phone <> %s)", f"+86{phone(19_999)}")
    assert "MySQL enter" in await run("import", str(file), code=1)
    assert site.sql("SELECT COUNT(*) AS n FROM call_opt_outs") == [{"n": 0}]
    site.sql("ALTER TABLE call_opt_outs DROP CONSTRAINT broken")
    before = site.questions()
    assert await run("import", str(file)) == {"numbers": 20_000, "added": 20_000}
    assert site.questions() - before < 200
    before = site.questions()
    assert await run("import", str(file)) == {"numbers": 20_000, "added": 0}
    assert site.questions() - before < 200


async def test_an_export_is_a_list_that_can_be_imported(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calltasks.opt_outs.PAGE", 2)
    reasons = ["=cmd|' /C calc'!A0", "第一行\n第二行", '说："别打"', "", "平常"]
    for number, reason in enumerate(reasons):
        await run("add", phone(number), "--reason", reason)
    await run("add", "+852 5123 4567")
    await run("lift", phone(4), "--reason", "r")
    file = tmp_path / "list.csv"
    assert await run("export", str(file)) == {"exported": 5}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and os.listdir(tmp_path) == [file.name]
    rows = list(csv.DictReader(file.read_text("utf-8-sig").splitlines(keepends=True)))
    assert [row["phone"] for row in rows] == [*(phone(n) for n in range(4)), "0085251234567"]
    assert [row["reason"] for row in rows] == ["'" + reasons[0], *reasons[1:4], ""]
    shown = await command("opt-outs", "export", *ORGANIZATION)
    assert shown.stdout.encode().replace(b"\r\n", b"\n") == file.read_bytes().replace(b"\r\n", b"\n")
    assert "5 exported" in shown.stderr
    done = await command("opt-outs", "import", str(file), "--organization", "org8", "--json")
    assert json.loads(done.stdout) == {"numbers": 5, "added": 5}
    there = [row["phone"] for row in site.sql("SELECT * FROM call_opt_outs WHERE organization_id = 'org8' ORDER BY id")]
    assert sorted(there) == sorted([*(f"+86{phone(n)}" for n in range(4)), "+85251234567"])


async def test_an_export_that_fails_leaves_the_file_before_as_it_was(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "list.csv"
    file.write_text("before")
    site.sql("ALTER TABLE call_opt_outs CHANGE lift_reason other TEXT NULL")
    assert "MySQL page" in await run("export", str(file), code=1)
    assert file.read_text() == "before" and os.listdir(tmp_path) == [file.name]
    assert "No such file" in await run("export", str(tmp_path / "none" / "list.csv"), code=1)
    assert (await command("opt-outs", "export", *ORGANIZATION, "--json")).exit_code == 2
