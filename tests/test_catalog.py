"""A catalog knows its entries by name, and an unknown name is answered with the known ones."""

import re

import pytest

from rewindctl.catalog import Catalog
from rewindctl.errors import UnknownNameError


def fruit() -> Catalog[str]:
    catalog: Catalog[str] = Catalog("fruit")
    catalog.register("pear")("a pear")
    catalog.register("apple")("an apple")
    return catalog


def with_family() -> Catalog[str]:
    catalog = fruit()

    @catalog.register_family("melonN", r"melon(\d+)")
    def melon(match: re.Match[str]) -> str:
        return f"a melon of {match[1]} kg"

    return catalog


def test_entries_are_found_by_name_and_listed_in_order() -> None:
    catalog = fruit()
    assert (catalog["pear"], catalog["apple"]) == ("a pear", "an apple")
    assert list(catalog) == ["apple", "pear"]
    assert "pear" in catalog
    assert "plum" not in catalog


def test_decorator_gives_back_what_it_registers() -> None:
    catalog: Catalog[type] = Catalog("class")

    @catalog.register("mine")
    class Mine:
        pass

    assert catalog["mine"] is Mine


def test_name_is_taken_once_and_the_first_entry_stays() -> None:
    catalog = fruit()
    with pytest.raises(ValueError, match="fruit 'pear' is registered twice"):
        catalog.register("pear")("another")
    assert catalog["pear"] == "a pear"


def test_unknown_name_is_answered_with_the_nearest_and_all_known() -> None:
    with pytest.raises(UnknownNameError) as caught:
        with_family()["aple"]
    assert caught.value.message == "unknown fruit 'aple': did you mean 'apple'?"
    assert caught.value.hint == "known: apple, pear, melonN"
    assert caught.value.exit_code == 2


def test_name_that_is_near_none_gets_no_suggestion() -> None:
    with pytest.raises(UnknownNameError) as caught:
        fruit()["zzz"]
    assert caught.value.message == "unknown fruit 'zzz'"


def test_empty_catalog_answers_too() -> None:
    empty: Catalog[str] = Catalog("fruit")
    assert list(empty) == []
    with pytest.raises(UnknownNameError, match="unknown fruit 'pear'"):
        empty["pear"]


def test_family_makes_entries_from_names_that_match_as_a_whole() -> None:
    catalog = with_family()
    assert catalog["melon12"] == "a melon of 12 kg"
    assert "melon3" in catalog
    for name in ("melon", "melon3x", "a melon3", "melon3\n"):
        assert name not in catalog
        with pytest.raises(UnknownNameError):
            catalog[name]


def test_family_is_named_by_its_label_and_not_iterated() -> None:
    catalog = with_family()
    assert catalog.names() == ("apple", "pear", "melonN")
    assert list(catalog) == ["apple", "pear"]


def test_registered_entry_goes_before_the_family() -> None:
    catalog = with_family()
    catalog.register("melon7")("the prize melon")
    assert catalog["melon7"] == "the prize melon"


def test_catalogs_do_not_share_entries() -> None:
    fruit()
    assert "pear" not in Catalog[str]("fruit")
