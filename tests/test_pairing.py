"""Which job is which row's, whatever is listed and stored: the rule alone, without a server."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from calltasks.database.tables.jobs import MatchRow
from calltasks.platform.session import Contact
from calltasks.rules.pairing import IdentifiedJob, Pairing, pair, reference_of
from calltasks.rules.phones import comparable

TASK, OTHER = 5, 6
NUMBERS = ["13900000001", "13900000002", "8001", "", "无"]
SPELLINGS = {"13900000001": ["13900000001", "+86 139-0000-0001", "１３９００００0001.0"], "8001": ["8001", " 8001\n"]}
REFERENCES = ["", "r1", "r2", "R1", "task_5_lead_1", "task_6_lead_1", "task_5_lead_2"]


def job(job_id: str, reference: str = "", phone: str = "", *others: tuple[str, str]) -> IdentifiedJob:
    further = tuple(Contact(reference_id=one, phone_number=number) for one, number in others)
    return IdentifiedJob(job_id=job_id, reference_id=reference, phone=phone, others=further)


def row(
    id_: int, reference: str = "", phone: str = "", *, job_id: str = "", task: int = TASK, lead: str = ""
) -> MatchRow:
    lead = lead or str(id_)
    return MatchRow(id=id_, task_id=task, leads_id=lead, reference_id=reference, phone=phone, job_id=job_id)


def paired(jobs: Sequence[IdentifiedJob], rows: Sequence[MatchRow], *, whole: bool = True) -> dict[int, str]:
    return dict(pair(jobs, rows, task_id=TASK, whole=whole, by_phone=whole).pairs)


phones = st.sampled_from(NUMBERS).flatmap(lambda number: st.sampled_from(SPELLINGS.get(number, [number])))
contacts = st.tuples(st.sampled_from(REFERENCES), phones)
one_contact = st.builds(lambda contact: job("", *contact), contacts)
jobs_of_a_group = st.lists(
    one_contact | st.builds(lambda first, *more: job("", *first, *more), contacts, contacts), max_size=7
).map(lambda found: [replace(one, job_id=f"j{n}") for n, one in enumerate(found)])
rows_of_tasks = st.lists(
    st.builds(
        row,
        st.just(0),
        st.sampled_from(REFERENCES),
        phones,
        job_id=st.sampled_from(["", "", "", "held"]),
        task=st.sampled_from([TASK, TASK, OTHER]),
        lead=st.sampled_from(["1", "2", "x"]),
    ),
    max_size=7,
).map(lambda found: [replace(one, id=n) for n, one in enumerate(found, 1)])
in_any_order = st.randoms(use_true_random=False)


@given(jobs_of_a_group, rows_of_tasks, st.booleans(), st.booleans(), in_any_order)
def test_a_job_goes_to_one_row_and_a_row_gets_one_job_in_whatever_order_they_come(
    jobs: list[IdentifiedJob], rows: list[MatchRow], whole: bool, by_phone: bool, random: Random
) -> None:
    found = pair(jobs, rows, task_id=TASK, whole=whole, by_phone=whole and by_phone)
    assert max(Counter(job_id for _, job_id in found.pairs).values(), default=1) == 1
    assert max(Counter(row_id for row_id, _ in found.pairs).values(), default=1) == 1
    by_id = {one.id: one for one in rows}
    assert all(by_id[row_id].task_id == TASK and not by_id[row_id].job_id for row_id, _ in found.pairs)
    assert {job_id for _, job_id in found.pairs}.isdisjoint(one.job_id for one in found.left_over)
    # Portions of a query may name a row twice.
    shuffled = [*jobs], [*rows, *rows[:2]]
    random.shuffle(shuffled[0])
    random.shuffle(shuffled[1])
    again = pair(*shuffled, task_id=TASK, whole=whole, by_phone=whole and by_phone)
    assert again.pairs == found.pairs
    assert {one.job_id for one in again.left_over} == {one.job_id for one in found.left_over}


@given(jobs_of_a_group, rows_of_tasks)
def test_a_reference_beats_a_number_and_nobody_is_robbed(jobs: list[IdentifiedJob], rows: list[MatchRow]) -> None:
    found = pair(jobs, rows, task_id=TASK, whole=True, by_phone=True)
    given_away = dict(found.pairs)
    by_job = {one.job_id: one for one in jobs}
    named = {reference_of(one) for one in rows}
    for one in rows:
        if one.id in given_away:
            its = by_job[given_away[one.id]]
            # By its number only a job that names nobody.
            assert reference_of(one) in its.references or named.isdisjoint(its.references)
            assert reference_of(one) in its.references or comparable(one.phone) & its.phones
        elif one.task_id == TASK and not one.job_id:
            # Who got nothing had nothing to get: whatever carries its reference went to others, of whom it is true too.
            carrying = {other.job_id for other in jobs if reference_of(one) in other.references}
            assert carrying.isdisjoint(free.job_id for free in found.left_over)
            assert not any(
                comparable(one.phone) & free.phones for free in found.left_over if named.isdisjoint(free.references)
            )


@given(st.lists(one_contact, max_size=7), rows_of_tasks, st.integers(0, 7))
def test_what_some_pages_decide_all_pages_would_decide_too(
    jobs: list[IdentifiedJob], rows: list[MatchRow], cut: int
) -> None:
    jobs = [replace(one, job_id=f"j{n}") for n, one in enumerate(jobs)]
    at_once = pair(jobs, rows, task_id=TASK, whole=True, by_phone=True)
    taken: dict[int, str] = {}
    for part in (jobs[:cut], jobs[cut:]):
        found = pair(part, _with(rows, taken), task_id=TASK, whole=False, by_phone=False)
        for row_id, job_id in found.pairs:
            its, one = jobs[int(job_id[1:])], rows[row_id - 1]
            assert reference_of(one) in its.references
            assert comparable(one.phone) & its.phones or not comparable(one.phone)
        taken |= dict(found.pairs)
    left = [one for one in jobs if one.job_id not in taken.values()]
    taken |= dict(pair(left, _with(rows, taken), task_id=TASK, whole=True, by_phone=True).pairs)
    # Which of two like jobs a row gets may differ, not how many rows of a reference and a number get one that agrees.
    assert _agreeing(rows, jobs, taken) >= _agreeing(rows, jobs, dict(at_once.pairs))


def _with(rows: Sequence[MatchRow], taken: dict[int, str]) -> list[MatchRow]:
    return [replace(one, job_id=one.job_id or taken.get(one.id, "")) for one in rows]


def _agreeing(rows: Sequence[MatchRow], jobs: Sequence[IdentifiedJob], taken: dict[int, str]) -> Counter[object]:
    its = {one.job_id: one for one in jobs}
    return Counter(
        (reference_of(one), tuple(comparable(one.phone)))
        for one in rows
        if one.id in taken
        and reference_of(one) in its[taken[one.id]].references
        and comparable(one.phone) & its[taken[one.id]].phones
    )


@given(st.permutations(["13900000001", "13900000002", "13900000003"]), st.booleans())
def test_between_rows_of_one_reference_the_number_decides(numbers: list[str], whole: bool) -> None:
    rows = [row(n, "twice", number) for n, number in enumerate(numbers, 1)]
    jobs = [job(f"j{number}", "twice", f"+86 {number}") for number in sorted(numbers)]
    assert paired(jobs, rows, whole=whole) == {n: f"j{number}" for n, number in enumerate(numbers, 1)}


def test_between_equal_references_of_two_tasks_the_number_decides_whoever_is_listed_first() -> None:
    rows = [row(1, "1111", "13900000001"), row(2, "1111", "13900000002", task=OTHER)]
    first, second = job("a", "1111", "13900000001"), job("b", "1111", "13900000002")
    for whole in (True, False):
        assert paired([first, second], rows, whole=whole) == {1: "a"}
        assert paired([first], rows, whole=whole) == {1: "a"}
        assert paired([second], rows, whole=whole) == {}
    # Nobody's number: the lower id; both tasks come to the same.
    assert paired([job("c", "1111", "13900000009")], rows) == {1: "c"}
    nothing = Pairing(pairs=[], left_over=[], spare=0)
    assert pair([job("c", "1111")], rows, task_id=OTHER, whole=True, by_phone=True) == nothing


def test_rows_alike_get_jobs_in_order_of_id() -> None:
    rows = [row(n, "twice", "13900000001") for n in (3, 1, 2)]
    assert paired([job("b", "twice", "13900000001"), job("a", "twice")], rows) == {1: "b", 2: "a"}


def test_one_more_job_of_a_lead_is_left_alone() -> None:
    rows = [row(1, "r1", "13900000001", job_id="held"), row(2, "", "13900000001"), row(3, "", "13900000001", lead="9")]
    second = [job("x", "r1", "13900000001"), job("y", "task_5_lead_2", "13900000001")]
    found = pair(second, rows, task_id=TASK, whole=True, by_phone=True)
    assert found == Pairing(pairs=[(2, "y")], left_over=[], spare=1)
    assert paired([job("z", "stranger", "13900000001")], rows) == {2: "z"}


def test_a_number_goes_to_a_row_without_a_reference_first() -> None:
    rows = [row(1, "own-1", "13900000001"), row(2, "", "13900000001")]
    assert paired([job("x", "", "+86 13900000001")], rows) == {2: "x"}


def test_references_are_compared_exactly_but_for_blanks_around_them() -> None:
    assert paired([job("x", "r1 "), job("y", "R1")], [row(1, "r1"), row(2, "R1"), row(3, "r2")]) == {1: "x", 2: "y"}


def test_any_contact_of_a_job_may_be_the_rows() -> None:
    jobs = [job("x", "wife", "13900000009", ("r1", "13900000001")), job("y", "", "010-12345678", ("", "13900000002"))]
    assert paired(jobs, [row(1, "r1", ""), row(2, "", "13900000002")]) == {1: "x", 2: "y"}


def test_some_pages_leave_open_what_a_further_page_could_overturn() -> None:
    wrong = job("a", "r1", "13900000009")
    for found in (
        pair([wrong], [row(1, "r1", "13900000001")], task_id=TASK, whole=False, by_phone=False),
        pair([job("b", "r1")], [row(1, "r1"), row(2, "r1")], task_id=TASK, whole=False, by_phone=False),
        pair([job("c", "", "13900000001")], [row(1, "", "13900000001")], task_id=TASK, whole=False, by_phone=False),
    ):
        assert not found.pairs and len(found.left_over) == 1
    assert paired([wrong], [row(1, "r1", "13900000001")]) == {1: "a"}
    assert paired([job("b", "r1")], [row(1, "r1"), row(2, "r2")], whole=False) == {1: "b"}


def test_thousands_alike_are_no_work() -> None:
    """A constant for a reference, one number for all: what is compared with everything would take hours."""
    rows = [row(n, "vip", "13900000001") for n in range(1, 20_001)]
    jobs = [job(f"{n:06}", "vip", "+8613900000002" if n % 2 else "13900000001") for n in range(1, 20_001)]
    assert len(paired(jobs, rows)) == 20_000
