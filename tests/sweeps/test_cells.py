from ngd_theory.claims import Settings
from ngd_theory.sweeps.cells import Cell, grouped_by_shape


def cell(measure=("gap",), **settings):
    return Cell(Settings(dataset="gaussian", approximations=("exact",), **settings), measure)


def test_identity_does_not_change_between_versions_by_accident():
    # A change here means that every stored sweep is recomputed: raise FORMAT on purpose only.
    assert cell(width=8).id == ("07ed63df4e0c6b11f039a738e35bc9f9ba336d6237378085b3869cde21b68057")


def test_identity_is_of_the_values_not_of_how_they_are_written():
    assert cell(damping=0).id == cell(damping=0.0).id
    assert cell(("gap", "isotropy")).id == cell(("isotropy", "gap")).id
    left, right = (
        Settings(approximations=names) for names in (("exact", "kfac"), ("kfac", "exact"))
    )
    assert Cell(left, ()).id == Cell(right, ()).id


def test_every_change_of_a_setting_changes_the_identity():
    cells = [
        cell(),
        cell(width=8),
        cell(seed=1),
        cell(damping=1e-9),
        cell(("gap", "movement")),
        Cell(Settings(dataset="gaussian", approximations=("kfac",)), ("gap",)),
    ]
    assert len({c.id for c in cells}) == len(cells)


def test_cells_of_one_shape_come_together():
    mixed = [cell(width=w, seed=s) for s in (0, 1) for w in (8, 16)]
    widths = [(c.settings.width, c.settings.seed) for c in grouped_by_shape(mixed)]
    assert widths == [(8, 0), (8, 1), (16, 0), (16, 1)]


def test_zero_damping_is_another_program():
    assert cell(damping=0).shape != cell(damping=1e-8).shape == cell(damping=1e-4).shape
