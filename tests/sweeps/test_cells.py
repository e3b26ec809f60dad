from ngd_theory.experiment import Settings
from ngd_theory.sweeps.cells import grouped_by_shape, with_data
from ngd_theory.sweeps.theory_cells import TheoryCell


def cell(measure=("gap",), **settings):
    chosen = Settings(dataset="gaussian", approximations=("exact",), **settings)
    return TheoryCell(chosen, measured=measure)


def test_identity_does_not_change_between_versions_by_accident():
    # A change here means that every stored sweep is recomputed: raise TheoryCell.format on purpose only.
    assert cell(width=8).id == ("2bbe68398c170dfaff5c197272b46094669bf0e677789cd9b5fe4ed369b3b63a")


def test_identity_is_of_the_values_not_of_how_they_are_written():
    assert cell(damping=0).id == cell(damping=0.0).id
    assert cell(("gap", "isotropy")).id == cell(("isotropy", "gap")).id
    left, right = (
        Settings(approximations=names) for names in (("exact", "kfac"), ("kfac", "exact"))
    )
    assert TheoryCell(left).id == TheoryCell(right).id


def test_every_change_of_a_setting_changes_the_identity():
    cells = [
        cell(),
        cell(width=8),
        cell(seed=1),
        cell(damping=1e-9),
        cell(("gap", "movement")),
        TheoryCell(Settings(dataset="gaussian", approximations=("kfac",)), measured=("gap",)),
    ]
    assert len({c.id for c in cells}) == len(cells)


def test_cells_of_one_shape_come_together():
    mixed = [cell(width=w, seed=s) for s in (0, 1) for w in (8, 16)]
    widths = [(c.settings.width, c.settings.seed) for c in grouped_by_shape(mixed)]
    assert widths == [(8, 0), (8, 1), (16, 0), (16, 1)]


def test_of_one_shape_those_of_one_network_come_together():
    mixed = [
        cell(seed=s, damping=d, width=w) for d in (1e-8, 1e-4) for s in (0, 1) for w in (8, 16)
    ]
    found = [(c.settings.width, c.settings.seed) for c in grouped_by_shape(mixed)]
    assert found == [(w, s) for w in (8, 16) for s in (0, 1) for _ in (1e-8, 1e-4)]


def test_zero_damping_is_another_program():
    assert cell(damping=0).shape != cell(damping=1e-8).shape == cell(damping=1e-4).shape


def test_identity_is_of_the_rows_too():
    (first,), (again,), (other,) = (with_data([cell(seed=seed)]) for seed in (0, 0, 1))
    assert first.id == again.id and first.data != other.data
    assert first.id == f"{first.point}-{first.data}" and first.point == cell(seed=0).point
