"""The balloons policy's choice of CPUs for one balloon: the best tree element, then exact CPUs from it.

The steps are those of the policy for a balloon that is made in one go: what is better avoided narrows the free CPUs,
the deepest element that can hold the request wins, counts from the root down and then names break ties, and a
second picker takes whole cache groups, cores and threads from the element.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nriperf.balloons.tree import CpuTree, Element, bits_of


@dataclass(frozen=True)
class Cpus:
    """What is free, as bit sets: `usable` may be given, `free` is counted in comparisons, `avoid` are sets to stay off
    where the request fits elsewhere, the most important first."""

    usable: int
    free: int
    avoid: tuple[int, ...] = ()


def allocate(tree: CpuTree, cpus: Cpus, count: int, *, balancing: bool) -> int | None:
    """`count` CPUs of the best element, None where too few are usable. `balancing`: among equally deep elements the one
    with more free CPUs, else with fewer."""
    if cpus.usable.bit_count() < count:
        return None
    usable, free = _narrow(cpus, count)
    return pick(tree, best(tree.root, usable, free, 0, count, balancing=balancing), count)


def allocate_spread(tree: CpuTree, cpus: Cpus, count: int, *, balancing: bool) -> int | None:
    """`count` CPUs on different cores, one after the other, in one NUMA node while it has any; first threads before
    second ones, then by name. None where too few cores are usable."""
    chosen = own = 0
    for _ in range(count):
        rest = Cpus(cpus.usable & ~own, cpus.free & ~own, cpus.avoid)
        if not rest.usable:
            return None
        usable, free = _narrow(rest, 1)
        usable = best(tree.areas, usable, free, chosen, 1, balancing=balancing)
        firsts = next(usable & thread for thread in tree.threads if usable & thread)
        cpu = firsts & -firsts
        chosen |= cpu
        own |= tree.core_of[cpu.bit_length() - 1]
    return chosen


def _narrow(cpus: Cpus, count: int) -> tuple[int, int]:
    usable, free = cpus.usable, cpus.free
    for unwanted in cpus.avoid:
        if unwanted and (usable & ~unwanted).bit_count() >= count:
            usable &= ~unwanted
            free &= ~unwanted
    return usable, free


def cores_of(tree: CpuTree, mask: int) -> int:
    """The whole cores that CPUs belong to."""
    cores = 0
    for bit in bits_of(mask):
        cores |= tree.core_of[bit]
    return cores


def count_cores(tree: CpuTree, mask: int) -> int:
    """On how many cores CPUs are."""
    return sum(1 for core in tree.cores if core & mask)


def lowest_cpu(tree: CpuTree, mask: int) -> int:
    """The bit of the lowest-numbered CPU."""
    return 1 << min(bits_of(mask), key=tree.order.__getitem__)


def best(root: Element, usable: int, free: int, current: int, count: int, *, balancing: bool) -> int:
    """The usable CPUs of the best element that holds `count` of them: the deepest; then, from the root down, more
    `current` CPUs; then, from the root down, more (balancing) or fewer free ones; then the smaller name."""
    levels = [[root]]
    while True:
        below = [
            child for element in levels[-1] for child in element.children if (child.mask & usable).bit_count() >= count
        ]
        if not below:
            break
        levels.append(below)
    if len(levels[-1]) > 1:
        _drop_dead_ends(levels)
        if current:
            _keep_most(levels, current, 1)
        _keep_most(levels, free, 1 if balancing else -1)
    return min(levels[-1], key=lambda element: element.rank).mask & usable


def _drop_dead_ends(levels: list[list[Element]]) -> None:
    """Leave only the ancestors of the deepest level."""
    for upper in range(len(levels) - 2, 0, -1):
        alive = {element.parent for element in levels[upper + 1]}
        levels[upper] = [element for element in levels[upper] if element in alive]


def _keep_most(levels: list[list[Element]], cpus: int, sign: int) -> None:
    """Level by level from the root, keep the elements with most (sign 1) or fewest (-1) of `cpus`."""
    for depth in range(1, len(levels)):
        above = set(levels[depth - 1])
        counts = [(sign * (e.mask & cpus).bit_count(), e) for e in levels[depth] if e.parent in above]
        most = max(count for count, _ in counts)
        levels[depth] = [element for count, element in counts if count == most]
    _drop_dead_ends(levels)


# ------------------------------------------------------------------------------------------------- the exact CPUs


def pick(tree: CpuTree, candidates: int, count: int) -> int:
    """Exactly `count` of the candidates: whole cache groups, whole cores, single threads, in this order."""
    if candidates.bit_count() == count:
        return candidates
    picked = _pick_clusters(tree, candidates, count) if count >= 2 and tree.clusters else 0
    return picked or _pick_cores(tree, candidates, count, 0)


def _pick_clusters(tree: CpuTree, candidates: int, count: int) -> int:
    """Whole free cache groups first, in the tightest die (else package) that holds the request; then a part of the
    next one, then partly free ones. 0 where no package holds the request."""
    region = _tightest_region(tree, candidates, count)
    inside = [c.mask for clusters in tree.clusters for c in clusters if c.mask & region]
    picked = 0
    for mask in inside:
        left = count - picked.bit_count()
        if left and mask & candidates == mask:
            picked |= mask if mask.bit_count() <= left else _pick_cores(tree, mask, left, picked)
    parts = sorted((m & candidates & ~picked for m in inside if m & candidates & ~picked), key=int.bit_count)
    while parts and (left := count - picked.bit_count()):
        part = next((p for p in parts if p.bit_count() == left), parts[-1])
        parts.remove(part)
        picked |= part if part.bit_count() <= left else _pick_cores(tree, part, left, picked)
    return picked


def _tightest_region(tree: CpuTree, candidates: int, count: int) -> int:
    """The die, else the package, with the fewest candidates that are enough; 0 where there is none."""
    dies = {cluster.die_mask for clusters in tree.clusters for cluster in clusters}
    for regions in (sorted(dies), tree.packages):
        enough = [region for region in regions if (region & candidates).bit_count() >= count]
        if enough:
            return min(enough, key=lambda region: (region & candidates).bit_count())
    return 0


def _pick_cores(tree: CpuTree, candidates: int, count: int, picked: int) -> int:
    for core in tree.cores:
        size = core.bit_count()
        if size <= count and core & candidates == core:
            picked |= core
            candidates &= ~core
            count -= size
    while count:
        cpu = _next_single(tree, candidates, picked)
        picked |= cpu
        candidates &= ~cpu
        count -= 1
    return picked


def _next_single(tree: CpuTree, candidates: int, picked: int) -> int:
    """A thread in the package that gave most, on the core with fewest candidates left, of the lowest number."""
    package = min(
        (p for p in tree.packages if p & candidates), key=lambda p: (-(p & picked).bit_count(), tree.packages.index(p))
    )
    return 1 << min(
        bits_of(candidates & package),
        key=lambda bit: ((tree.core_of[bit] & candidates).bit_count(), tree.order[bit]),
    )
