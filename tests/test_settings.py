from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from benchsuite.errors import nearest
from benchsuite.models.detector import Backbone, Model
from benchsuite.models.resnet import ResNet
from benchsuite.settings import Settings, canonical, choices, content_key, find, flat_errors, once, walk


class Inner(Settings):
    rate: float = 0.1
    place: str = Field("here", exclude=True)


class Outer(Settings):
    backbone: Backbone
    inner: Inner = Inner()
    names: tuple[str, ...] = ()


def test_kind_chooses_a_part_by_import() -> None:
    built = Outer.model_validate({"backbone": {"kind": "resnet.ResNet", "depth": 18}})
    assert built.backbone == ResNet(depth=18)


def test_a_users_own_part_is_named_by_module_and_class() -> None:
    assert find(Backbone, "benchsuite.models.resnet:ResNet") is ResNet


@pytest.mark.parametrize(
    "kind", ["retinanet.RetinaNet", "os:system", "resnet.Backbone", "resnet.Pretrained", "resnet", "no.Such", "a.b.C"]
)
def test_what_is_no_part_of_the_slot_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"backbone": {"kind": kind}})
    assert f"unknown kind '{kind}'" in flat_errors(raised.value)[0][1]


def test_errors_inside_parts_keep_their_path() -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"backbone": {"kind": "resnet.ResNet", "depht": 18}})
    path, message, value = flat_errors(raised.value)[0]
    assert (path, message, value) == (("backbone", "depht"), "Extra inputs are not permitted", 18)


def test_choices_are_found_without_a_registry() -> None:
    assert {"resnet.ResNet", "timm_backbone.Timm"} <= set(choices(Backbone))
    assert "retinanet.RetinaNet" in choices(Model)


def test_canonical_form_writes_defaults_and_leaves_places_out() -> None:
    form = canonical(Outer(backbone=ResNet(depth=18), inner=Inner(place="there")))
    assert isinstance(form, dict)
    assert form["inner"] == {"rate": 0.1}
    assert form["backbone"]["kind"] == "resnet.ResNet"  # type: ignore[index]


def test_version_and_identity_change_the_key() -> None:
    class Second(Inner):
        version: ClassVar[int] = 2

    class Known(Inner):
        def identity(self) -> str:
            return "abc"

    keys = {content_key(canonical(each())) for each in (Inner, Second, Known)}
    assert len(keys) == 3


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)))
def test_a_key_does_not_depend_on_the_order_of_mappings(values: dict[str, object]) -> None:
    backwards = dict(reversed(values.items()))
    assert content_key(canonical(values)) == content_key(canonical(backwards))


def test_walk_visits_every_settings_object() -> None:
    assert [type(each) for each in walk(Outer(backbone=ResNet()))] == [Outer, ResNet, Inner]


def test_nearest_offers_a_spelling_and_the_list() -> None:
    assert nearest("har-tabel1", ["har-table1", "pod-table2"]).startswith("did you mean 'har-table1'?")
    assert nearest("x", []) == "there are none"


def test_an_optional_part_that_is_absent_changes_no_key() -> None:
    class Before(Settings):
        rate: float = 0.1

    class After(Before):
        extra: Inner | None = None

    assert content_key(canonical(Before())) == content_key(canonical(After()))
    assert content_key(canonical(Before())) != content_key(canonical(After(extra=Inner())))


def test_what_is_frozen_computes_once_and_copies_anew() -> None:
    class Counting(Settings):
        number: int = 1
        names: tuple[str, ...] = ()

        @once
        def doubled(self, times: int) -> list[int]:
            return [self.number * times]

    class Deeper(Counting):
        @once
        def doubled(self, times: int) -> list[int]:
            return [*super().doubled(times), 0]

    one = Deeper(number=3)
    assert one.doubled(2) == [6, 0] and one.doubled(2) is one.doubled(2) and one.doubled(3) == [9, 0]
    assert canonical(one) is canonical(one) and dict(one) == {"number": 3, "names": ()}
    assert one == Deeper(number=3) and hash(one) == hash(Deeper(number=3))
    for other in (one.model_copy(update={"number": 4}), one.changed(number=4)):
        assert other.doubled(2) == [8, 0] and canonical(other) == {"number": 4, "names": []}
