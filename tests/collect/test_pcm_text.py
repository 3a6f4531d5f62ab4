"""PCM's text is understood as it is: scopes once, invalid readings never, unknown names kept."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.collect.pcm_text import PcmParser, Reading, kind_of
from pytest_nriperf.errors import CollectorError
from tests.pcm_double import Machine, text

MACHINE = Machine()
T_US = 864_000_123_456
DOCUMENT = text(MACHINE, T_US)
STAMP = "Measurement_Interval_in_us 5\n"


def readings(document: str, cpus: frozenset[int] | None = None) -> list[Reading]:
    return PcmParser(cpus).parse(document).readings


def by_name(document: str, name: str, cpus: frozenset[int] | None = None) -> list[Reading]:
    return [each for each in readings(document, cpus) if each.name == name]


def test_the_servers_stamp_and_its_cpus_are_found() -> None:
    answer = PcmParser(None).parse(DOCUMENT)
    assert answer.stamp_us == T_US
    assert answer.cpus == {
        (socket, core, thread): MACHINE.cpu(socket, core, thread)
        for socket in range(2)
        for core in range(2)
        for thread in range(2)
    }
    assert answer.strange == 0


def test_a_name_is_kept_once_for_each_cpu_and_once_for_each_socket() -> None:
    found = by_name(DOCUMENT, "Instructions_Retired_Any")
    assert sorted((each.cpu, each.socket) for each in found if each.cpu is not None) == [
        (cpu, cpu % 4 // 2) for cpu in range(8)
    ]
    assert [each.socket for each in found if each.cpu is None] == [0, 1]
    assert len(by_name(DOCUMENT, "DRAM_Reads")) == 2


def test_only_the_wanted_cpus_are_read_and_all_sockets() -> None:
    found = by_name(DOCUMENT, "Clock_Unhalted_Thread", frozenset({1, 5}))
    assert [(each.cpu, each.socket) for each in found] == [(1, 0), (5, 0), (None, 0), (None, 1)]


def test_values_kinds_and_units_are_those_of_the_table() -> None:
    reads = by_name(DOCUMENT, "DRAM_Reads")[0]
    assert (reads.kind, reads.unit, reads.value) == ("cumulative", "B", MACHINE.uncore(T_US)["DRAM Reads"])
    joules = by_name(DOCUMENT, "Package_Joules_Consumed")[0]
    assert (joules.kind, joules.unit) == ("cumulative", "J")
    assert joules.value == pytest.approx(1000 + 248 * T_US / 1e6, abs=1e-3)
    occupancy = by_name(DOCUMENT, "L3_Cache_Occupancy")[0]
    assert (occupancy.kind, occupancy.unit, occupancy.value) == ("gauge", "KiB", 21_504)


def test_ratios_of_mixed_origin_are_left_out_and_raw_states_kept_by_index() -> None:
    names = {each.name for each in readings(DOCUMENT)}
    assert not any(name.startswith(("CStateResidency", "Utilization", "OS_ID")) for name in names)
    assert {"RawCStateResidency/0", "RawCStateResidency/6"} <= names
    assert "RawCStateResidency/3" not in names


def test_the_invalid_headroom_of_every_sum_is_left_out() -> None:
    assert {each.cpu for each in by_name(DOCUMENT, "Thermal_Headroom")} == set(range(8))


def test_an_invalid_occupancy_takes_the_socket_sum_with_it_and_nothing_else() -> None:
    document = text(Machine(invalid=frozenset({1})), T_US)
    found = by_name(document, "L3_Cache_Occupancy")
    assert sorted(each.cpu for each in found if each.cpu is not None) == [0, 2, 3, 4, 5, 6, 7]
    assert [each for each in found if each.cpu is None] == []
    assert len(by_name(document, "L3_Cache_Hits")) == 10


@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf"])
def test_what_a_division_by_zero_prints_is_left_out_in_silence(value: str) -> None:
    answer = PcmParser(None).parse(f'{STAMP}DRAM_Reads{{socket="0",source="uncore"}} {value}\n')
    assert (answer.readings, answer.strange) == ([], 0)


@pytest.mark.parametrize("value", ["1_000", "0x10", "1e5", "", "12 ", "٣", "- 1"])
def test_what_is_no_number_of_the_servers_is_counted_as_strange(value: str) -> None:
    answer = PcmParser(None).parse(f'{STAMP}DRAM_Reads{{socket="0",source="uncore"}} {value}\n')
    assert (answer.readings, answer.strange) == ([], 1)


def test_an_unknown_name_is_kept_without_a_kind() -> None:
    answer = PcmParser(None).parse(f'{STAMP}CXL_Read_Moods{{aggregate="system",source="uncore",socket="1"}} 7\n')
    assert answer.readings == [Reading("CXL_Read_Moods", "untyped", "", 7, None, 1)]
    assert kind_of("PCIe_SomethingNew") == ("cumulative", "")


def test_the_old_version_is_read_and_cores_that_bear_one_number_are_left_out() -> None:
    old = Machine(version="202302", repeated_cores=True)
    parser = PcmParser(None)
    answer = parser.parse(text(old, T_US))
    assert parser.ambiguous == set(range(8))
    assert all(each.cpu is None for each in answer.readings)
    assert {each.name for each in answer.readings} >= {"DRAM_Reads", "Package_Joules_Consumed"}
    assert not any(each.name.startswith(("PCIe", "CXL", "PP0")) for each in answer.readings)
    whole = PcmParser(None).parse(text(Machine(version="202302"), T_US))
    assert {each.cpu for each in whole.readings} == {None, *range(8)}


def test_a_server_that_numbers_anew_is_understood_anew() -> None:
    parser = PcmParser({0})
    parser.parse(DOCUMENT)
    line = 'Clock_Unhalted_Ref{socket="1",core="5",thread="0",source="core"} 9\n'
    moved = f'{STAMP}OS_ID{{socket="1",core="5",thread="0"}} 0\n{line}'
    assert parser.parse(moved).readings == [Reading("Clock_Unhalted_Ref", "cumulative", "", 9, 0, 1)]


@pytest.mark.parametrize("document", ["", "<html></html>", "{}", "up 1\n", "Measurement_Interval_in_us nan\n"])
def test_what_is_no_answer_of_pcm_is_refused(document: str) -> None:
    with pytest.raises(CollectorError, match="not pcm-sensor-server's"):
        PcmParser(None).parse(document)


labels = st.dictionaries(
    st.sampled_from(["socket", "core", "thread", "source", "aggregate", "index", "x"]),
    st.one_of(st.sampled_from(["0", "1", "core", "uncore", "system"]), st.text(string.printable, max_size=5)),
)
lines = st.one_of(
    st.text(max_size=40),
    st.builds(
        lambda name, found, value: (
            name + "{" + ",".join(f'{key}="{each}"' for key, each in found.items()) + "} " + value
        ),
        st.sampled_from(["DRAM_Reads", "OS_ID", "L3_Cache_Occupancy", "RawCStateResidency", "New", "Measurement"]),
        labels,
        st.one_of(st.integers().map(str), st.floats().map(str), st.text(max_size=6)),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(lines, max_size=12), st.none() | st.frozensets(st.integers(0, 3)))
def test_no_text_crashes_the_parser_or_gives_an_impossible_reading(
    given_lines: list[str], cpus: frozenset[int] | None
) -> None:
    answer = PcmParser(cpus).parse(STAMP + "\n".join(given_lines))
    for each in answer.readings:
        assert -(2**63) < each.value < 2**63
        assert each.value == each.value
        assert each.cpu is None or cpus is None or each.cpu in cpus
        assert each.socket >= 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(DOCUMENT)))
def test_a_cut_document_gives_whole_readings_or_none(length: int) -> None:
    whole = {(each.name, each.cpu, each.socket): each.value for each in readings(DOCUMENT)}
    try:
        answer = PcmParser(None).parse(DOCUMENT[:length].rpartition("\n")[0])
    except CollectorError:
        assert length <= len("Measurement_Interval_in_us 864000123456")
        return
    assert all(whole[each.name, each.cpu, each.socket] == each.value for each in answer.readings)
