"""The loop on a small world: what is decided, what comes of it, and what a bad delivery does to it (nothing)."""

import dataclasses
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
import polars as pl
import pytest

import velodrome as vd
from velodrome.control import pipeline, retraining
from velodrome.control.cycles import cycles
from velodrome.control.declaring import declare
from velodrome.control.pipeline import execute
from velodrome.control.retraining import retrain, watch
from velodrome.core.errors import ConfigurationError, ContractError, RunHeld, SchemaError, SplitError, VelodromeError
from velodrome.data.snapshots import find_snapshot, fragments_of
from velodrome.evaluation.report import Report
from velodrome.monitoring.drift import DriftReport
from velodrome.monitoring.quality import Quality
from velodrome.registry.versions import archive, find_alias, promote, reject, rollback
from velodrome.store.ledger import read_record
from velodrome.store.locks import hold

FORGETFUL = {"split": vd.TimeSplit(validation="4d", test="10d", train="14d")}
"""Trains on the newest weeks only, so a challenger follows a world that turned around."""

REFUSED = "cycle.data-refused"

pytestmark = pytest.mark.slow  # together they take half a minute; test_cycles.py is quick


def champion(world: Any) -> str | None:
    found = find_alias(world.ws, "buyers", "champion")
    return found.reference if found else None


# --------------------------------------------------------------------------------------------------------- the decision


def test_a_month_like_the_last_is_looked_at_and_left(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    found = world.retrain(2)
    assert (found.cycle.decision.action, found.conclusion, found.found) == ("wait", None, False)
    assert says(found) == dict.fromkeys(
        ["quarantine", "quality", "calibration", "drift", "cool-down", "budget"], "note"
    )
    assert found.cycle.rows == 400
    quality = read_record(world.ws.ledger, found.cycle.quality, Quality)
    assert (quality.version, quality.window, quality.labelled) == ("buyers/1", "visits-02", 400)
    assert quality.fall.value == pytest.approx(quality.promised.value - quality.now.value)
    report = read_record(world.ws.ledger, quality.report, Report)
    assert {cohort.value for cohort in report.cohorts} == {"Bern", "Basel", "Genf"}


def test_a_world_that_turned_around_trains_a_challenger_that_is_promoted(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    found = world.retrain(2, world.recipe(**FORGETFUL))
    assert says(found)["quality"] == "retrain"
    end = found.conclusion
    assert (end.verdict, end.version, end.against) == ("promoted", "buyers/2", "buyers/1")
    assert end.comparison.difference.low > 0.3
    assert champion(world) == "buyers/2"


def test_a_challenger_that_does_not_pass_its_gates_is_refused(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    found = world.retrain(2)  # January outweighs two weeks of February
    assert found.conclusion.verdict == "refused"
    assert any(not verdict.passed for verdict in found.conclusion.verdicts)
    assert champion(world) == "buyers/1"
    assert world.retrain(2).found


def test_drift_alone_never_trains_but_is_told(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(2, shift=2.0)
    found = world.retrain(2)
    assert (found.cycle.decision.action, says(found)["drift"]) == ("wait", "note")
    report = read_record(world.ws.ledger, found.cycle.drift, DriftReport)
    assert report.drifted == found.cycle.evidence.drifted == ("wants",)


def test_since_when_a_column_has_drifted(champion_of_january: Any) -> None:
    world = champion_of_january
    for month, shift in ((2, 2.0), (3, 0.0), (4, 2.0), (5, 2.0)):
        world.deliver(month, shift=shift)
    report = read_record(world.ws.ledger, world.retrain(5).cycle.drift, DriftReport)
    assert [window.drifted for window in report.windows] == [("wants",), (), ("wants",), ("wants",)]
    assert (report.since("wants"), report.since("city")) == ("visits-04", None)


@pytest.mark.parametrize(
    ("policy", "check"),
    [({"cool_down": "90d"}, "cool-down"), ({"budget": "0s"}, "budget"), ({"min_volume": 1.0}, "volume")],
)
def test_what_forbids_training_although_quality_fell(
    champion_of_january: Any, says: Any, policy: dict[str, Any], check: str
) -> None:
    world = champion_of_january
    world.deliver(2)
    world.retrain(2)
    world.deliver(3, slope=-3.0, rows=390)
    found = world.retrain(3, world.recipe(retrain=policy))
    assert (says(found)["quality"], says(found)[check], found.cycle.decision.action) == ("retrain", "wait", "wait")


def test_an_old_champion_is_trained_anew_though_it_is_good(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    recipe = world.recipe(retrain={"max_age": "45d"})
    assert says(world.retrain(2, recipe))["age"] == "note"
    world.deliver(3)
    old = world.retrain(3, recipe)
    assert (says(old)["age"], old.conclusion.verdict) == ("retrain", "promoted")


def test_a_person_may_ask_for_it(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    assert world.retrain(2).cycle.decision.action == "wait"
    asked = world.retrain(2, asked=True)
    assert (says(asked)["person"], asked.conclusion.verdict) == ("retrain", "promoted")
    assert world.retrain(2, asked=True).found  # the same wish for the same data is the same wish


def test_what_a_cool_down_delayed_is_done_when_it_has_passed(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    recipe = world.recipe(retrain={"cool_down": "40d"}, **FORGETFUL)
    assert world.retrain(2, recipe).cycle.decision.action == "wait"
    assert world.retrain(2, recipe, day=5).found
    assert world.retrain(2, recipe, day=20).conclusion.verdict == "promoted"


def test_a_person_who_must_approve_is_waited_for(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    recipe = world.recipe(**FORGETFUL)
    recipe = world.recipe(operate=vd.Operate(retrain=recipe.operate.retrain), **FORGETFUL)
    world.deliver(2, slope=-3.0)
    assert world.retrain(2, recipe).conclusion.verdict == "waiting"
    world.deliver(3, slope=-3.0)
    waits = world.retrain(3, recipe)
    assert (says(waits)["person"], waits.cycle.decision.action) == ("wait", "wait")
    assert champion(world) == "buyers/1"


# ------------------------------------------------------------------------------------------------------- bad deliveries


def test_a_month_without_rows(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.write(world.frame(2).clear(), "visits-02")
    found = world.retrain(2)
    assert (says(found)["rows"], found.cycle.decision.action, found.cycle.rows) == ("wait", "wait", 0)


def test_a_month_of_one_class(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.write(world.frame(2).with_columns(buys=pl.lit(1, pl.Int64)), "visits-02")
    found = world.retrain(2)
    assert (says(found)["labels"], found.cycle.decision.action) == ("wait", "wait")
    assert "class" in found.cycle.evidence.unmeasured


def test_labels_that_never_come(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.write(world.frame(2).with_columns(buys=pl.lit(None, pl.Int64)), "visits-02")
    in_quarantine = world.retrain(2)
    assert (says(in_quarantine)["rows"], in_quarantine.cycle.quarantined) == ("wait", 400)
    open_contract = vd.Dataset("visits", source=vd.Files("visits-*.parquet"), key="visit", time="when")
    unlabelled = world.retrain(2, world.recipe(data=open_contract))
    assert (says(unlabelled)["labels"], unlabelled.cycle.evidence.labelled) == ("wait", 0)
    world.deliver(2)  # they come in the end, in a file of the same name
    assert world.retrain(2).cycle.evidence.labelled == 400


@pytest.mark.parametrize("change", [{"drop": "wants"}, {"rename": {"wants": "wishes"}}], ids=["missing", "renamed"])
def test_a_column_that_is_gone_is_refused_and_the_loop_goes_on(
    champion_of_january: Any, change: dict[str, Any]
) -> None:
    world = champion_of_january
    frame = world.frame(2)
    broken = frame.drop(change["drop"]) if "drop" in change else frame.rename(change["rename"])
    world.write(broken, "visits-02")
    for _ in range(2):
        with pytest.raises(SchemaError):
            world.retrain(2)
    told = [event for event in world.ws.ledger.events("cycle:buyers") if event.type == REFUSED]
    assert len(told) == 1
    assert champion(world) == "buyers/1"
    world.deliver(2)
    assert world.retrain(2).cycle.rows == 400


def test_half_the_volume_waits_and_is_looked_at_again_with_the_next(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    world.retrain(2)
    world.deliver(3, rows=200, slope=-3.0)
    half = world.retrain(3)
    assert (says(half)["volume"], half.cycle.decision.action) == ("wait", "wait")
    world.deliver(3, slope=-3.0)  # the rest of it
    assert world.retrain(3).cycle.rows == 400


def test_a_month_delivered_twice_counts_once(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    assert world.retrain(2).cycle.rows == 400
    world.deliver(2, name="visits-02-again")  # the same bytes under another name
    assert world.retrain(2).found
    world.write(world.frame(2).reverse(), "visits-02-reversed")  # the same rows in other bytes
    again = world.retrain(2)
    assert (again.cycle.rows, again.cycle.quarantined, again.cycle.decision.action) == (0, 400, "wait")


def test_months_out_of_order(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(3)
    assert world.retrain(3).cycle.window == "visits-03"
    world.deliver(2)
    late = world.retrain(3, day=2)
    assert (late.cycle.window, late.cycle.rows) == ("visits-02", 400)


def test_rows_of_an_earlier_month_are_not_judged_again(champion_of_january: Any) -> None:
    world = champion_of_january
    world.write(pl.concat([world.frame(2), world.frame(1).head(50)]), "visits-02")
    found = world.retrain(2)
    assert (found.cycle.rows, found.cycle.quarantined, found.cycle.evidence.labelled) == (400, 50, 400)


def test_corrected_rows_of_the_champions_own_month_do_not_flatter_it(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(1, seed=5)  # the same visits with other labels
    found = world.retrain(1, day=20)
    assert (found.cycle.rows, found.cycle.evidence.labelled, says(found)["labels"]) == (400, 0, "wait")


def test_a_poisoned_month_is_stopped_and_never_trained_on(champion_of_january: Any) -> None:
    world = champion_of_january
    recipe = world.recipe(contract=(vd.Between("wants", -10, 10, action="stop"),))
    world.retrain(1, recipe)
    factor = pl.when(pl.col("city") == "Bern").then(100).otherwise(1)
    world.write(world.frame(2).with_columns(pl.col("wants") * factor), "visits-02")
    with pytest.raises(ContractError, match="wants"):
        world.retrain(2, recipe)
    assert [fragment.file for fragment in fragments_of(world.ws, find_snapshot(world.ws, "visits"))] == [
        "visits-01.parquet"
    ]
    world.deliver(2)
    assert world.retrain(2, recipe).cycle.rows == 400


# ------------------------------------------------------------------------------------------------- others, and failures


def test_one_bad_file_makes_only_itself_wait(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    world.retrain(2)
    world.write(world.frame(2).reverse(), "visits-02b")  # everything again in other bytes: all of it in quarantine
    assert says(world.retrain(2, day=2))["quarantine"] == "wait"
    world.write(world.frame(3).clear(), "visits-03")
    assert says(world.retrain(3))["rows"] == "wait"
    world.deliver(4, slope=-3.0)
    found = world.retrain(4, world.recipe(**FORGETFUL))
    assert (found.cycle.rows, found.conclusion.verdict) == (400, "promoted")


def test_a_volume_that_stays_lower_is_the_usual_one_in_the_end(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    said = []
    for month, rows in ((2, 400), (3, 200), (4, 200), (5, 200), (6, 100)):
        world.deliver(month, rows=rows)
        said.append(says(world.retrain(month)).get("volume"))
    assert said == [None, "wait", "wait", "note", "wait"]
    assert world.retrain(6, asked=True).cycle.decision.action == "retrain"


def test_rows_that_a_mended_contract_lets_in_have_arrived(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.write(world.frame(2).with_columns(city=pl.lit("Zug")), "visits-02")
    strict = world.recipe(contract=(vd.OneOf("city", ["Bern", "Basel", "Genf"]),))
    assert says(world.retrain(2, strict))["rows"] == "wait"
    assert world.retrain(2).cycle.rows == 400


def test_rows_again_under_an_earlier_name_are_not_judged_again(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    assert world.retrain(2).conclusion.verdict == "refused"
    world.write(
        world.frame(2, slope=-3.0).reverse(), "visits-02-again"
    )  # sorts before visits-02, whose rows now repeat it
    again = world.retrain(2, day=20)
    assert (again.cycle.evidence.labelled, says(again)["labels"], again.cycle.decision.action) == (0, "wait", "wait")


def test_nothing_is_decided_for_the_future(champion_of_january: Any) -> None:
    world = champion_of_january
    with pytest.raises(ConfigurationError, match="past"):
        retrain(world.ws, world.recipe(), world.source, now=datetime(9999, 12, 31, tzinfo=UTC))


def test_labels_that_come_in_parts_are_all_judged(champion_of_january: Any) -> None:
    world = champion_of_january
    parts = vd.Dataset("visits", source=vd.Files("visits-*.parquet"), key="visit", time="when")
    whole = world.frame(2)
    late = pl.when(pl.int_range(pl.len()) < 200).then("buys")
    world.write(whole.with_columns(buys=late), "visits-02")
    assert world.retrain(2, world.recipe(data=parts)).cycle.evidence.labelled == 200
    world.write(whole, "visits-02")
    assert world.retrain(2, world.recipe(data=parts), day=20).cycle.evidence.labelled == 200


def test_a_promotion_that_an_earlier_cycle_made_is_not_made_again(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    assert world.retrain(2, asked=True).conclusion.verdict == "promoted"
    rollback(world.ws, "buyers", reason="complaints", actor="ann")
    world.deliver(3, rows=0)
    again = world.retrain(2, asked=True)
    assert (again.conclusion, champion(world)) == (None, "buyers/1")


def test_a_moment_without_a_zone_is_utc(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    found = retrain(world.ws, world.recipe(), world.source, now=datetime(2020, 3, 1))  # noqa: DTZ001 - what is tested
    assert found.cycle.at == datetime(2020, 3, 1, tzinfo=UTC)
    world.deliver(3)
    assert not retrain(world.ws, world.recipe(), world.source).found


def test_a_key_that_is_missing_is_a_reason_to_wait(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    frame = world.frame(2).with_columns(visit=pl.when(pl.col("visit") == "2-7").then(None).otherwise("visit"))
    world.write(frame, "visits-02")
    found = world.retrain(2)
    assert says(found)["labels"] == "wait"
    assert "key" in found.cycle.evidence.unmeasured


def test_a_champion_that_cannot_read_the_data_can_be_replaced(champion_of_january: Any, says: Any) -> None:
    world = champion_of_january
    for month in (1, 2):
        world.write(world.frame(month).rename({"wants": "wishes"}), f"visits-{month:02}")
    renamed = {"features": ["wishes", "city"]}
    waits = world.retrain(2, world.recipe(**renamed))
    assert (says(waits)["labels"], waits.cycle.decision.action) == ("wait", "wait")
    asked = world.retrain(2, world.recipe(**renamed), asked=True)
    assert (asked.conclusion.verdict, champion(world)) == ("refused", "buyers/1")
    assert "cannot read the data" in asked.conclusion.verdicts[-1].why
    done = world.retrain(2, world.recipe(**renamed, gates=[vd.AtLeast("roc_auc", 0.6)]), asked=True)
    assert (done.conclusion.verdict, champion(world)) == ("promoted", done.conclusion.version)


def test_classes_that_the_champion_does_not_know_are_not_compared_by_their_codes(champion_of_january: Any) -> None:
    world = champion_of_january
    cities = {"label": "city", "features": ["wants", "buys"], "gates": [vd.NotWorse("champion", by=0.5)]}
    cities["evaluation"] = vd.Evaluation("accuracy", resamples=60)
    other = world.recipe(**cities)
    first = execute(world.ws, declare(world.ws, msgspec.structs.replace(other, name="cities"), world.source, 0))
    assert first.champion
    world.write(world.frame(1).with_columns(pl.col("city").replace("Bern", "Zug")), "visits-01")
    second = execute(world.ws, declare(world.ws, msgspec.structs.replace(other, name="cities"), world.source, 0))
    assert not second.passed
    assert "Bern" in second.verdicts[0].why


def test_what_a_person_took_back_is_not_promoted_again(
    champion_of_january: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    recipe, record = world.recipe(**FORGETFUL), pipeline._record

    def dies(ws: Any, judge: Any, decision: Any, before: Any) -> Any:
        if decision.settled:
            raise KeyboardInterrupt
        return record(ws, judge, decision, before)

    monkeypatch.setattr(pipeline, "_record", dies)
    with pytest.raises(KeyboardInterrupt):
        world.retrain(2, recipe)
    monkeypatch.setattr(pipeline, "_record", record)
    assert champion(world) == "buyers/2"
    rollback(world.ws, "buyers", reason="complaints", actor="ann")
    assert world.retrain(2, recipe).conclusion.verdict == "promoted"
    assert champion(world) == "buyers/1"


def test_what_was_judged_is_settled_by_the_terms_that_it_was_judged_by(
    champion_of_january: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    record = pipeline._record

    def dies(ws: Any, judge: Any, decision: Any, before: Any) -> Any:
        if decision.settled:
            raise KeyboardInterrupt
        return record(ws, judge, decision, before)

    monkeypatch.setattr(pipeline, "_record", dies)
    with pytest.raises(KeyboardInterrupt):
        world.retrain(2, world.recipe(**FORGETFUL))
    monkeypatch.undo()
    end = world.retrain(2, world.recipe(gates=[vd.AtLeast("roc_auc", 0.9999)], **FORGETFUL)).conclusion
    assert (end.verdict, end.version) == ("promoted", "buyers/2")


def test_a_decision_on_which_the_recipe_cannot_be_trained_any_more_does_not_stand_in_the_way(
    champion_of_january: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    monkeypatch.setattr(retraining, "execute", _killed)
    with pytest.raises(KeyboardInterrupt):
        world.retrain(2)
    monkeypatch.undo()
    for month in (1, 2):
        world.write(
            world.frame(month, slope=-3.0).with_columns(age=pl.lit(30.0) + pl.col("wants")), f"visits-{month:02}"
        )
    found = world.retrain(2, world.recipe(features=["wants", "city", "age"]), day=2)
    history = cycles(world.ws, "buyers")
    assert [end.verdict if end else None for _, end in history][1] == "failed"
    assert found.cycle.number == 3


def _killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_other_gates_may_accept_what_gates_refused(world: Any) -> None:
    world.deliver(1)
    strict, mild = ([vd.AtLeast("roc_auc", threshold)] for threshold in (0.9999, 0.6))
    declared = {
        name: declare(world.ws, world.recipe(gates=gates, refit=False), world.source, 0)
        for name, gates in (("strict", strict), ("mild", mild))
    }
    assert execute(world.ws, declared["strict"]).state == "rejected"
    assert execute(world.ws, declared["mild"]).champion


def test_what_a_person_rejected_stays_rejected(world: Any) -> None:
    world.deliver(1)
    waiting = world.recipe(refit=False, operate=vd.Operate())
    version = execute(world.ws, declare(world.ws, waiting, world.source, 0)).version
    reject(world.ws, version, reason="it is not fair", actor="ann")
    again = execute(world.ws, declare(world.ws, world.recipe(refit=False), world.source, 0))
    assert (again.version, again.state, again.champion) == (version, "rejected", False)


def test_two_at_once(champion_of_january: Any) -> None:
    world = champion_of_january
    with hold(world.ws.lock("retrain-buyers"), "another"), pytest.raises(RunHeld, match="another"):
        world.retrain(2)


def test_a_champion_archived_by_hand_is_no_champion_any_more(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    assert world.retrain(2, world.recipe(**FORGETFUL)).conclusion.version == "buyers/2"
    rollback(world.ws, "buyers", reason="complaints", actor="ann")
    archive(world.ws, "buyers/2", reason="complaints", actor="ann")
    again = world.retrain(2, world.recipe(**FORGETFUL))
    assert again.found  # the same challenger would come of it
    world.deliver(3, slope=-3.0)
    later = world.retrain(3, world.recipe(**FORGETFUL))
    assert (later.cycle.champion, later.conclusion.verdict, champion(world)) == ("buyers/1", "promoted", "buyers/3")


def test_a_champion_that_changes_meanwhile_is_what_the_challenger_is_judged_against(
    champion_of_january: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = champion_of_january
    other = execute(world.ws, declare(world.ws, world.recipe(), world.source, 7))
    rollback(world.ws, "buyers", reason="not yet", actor="ann")
    assert (other.version, champion(world)) == ("buyers/2", "buyers/1")
    world.deliver(2, slope=-3.0)
    settle = pipeline._move

    def colleague_first(ws: Any, declared: Any, decision: Any) -> None:
        monkeypatch.setattr(pipeline, "_move", settle)
        assert decision.against == "buyers/1"
        promote(world.ws, "buyers/2", reason="now", actor="ann")
        settle(ws, declared, decision)

    monkeypatch.setattr(pipeline, "_move", colleague_first)
    end = world.retrain(2, world.recipe(**FORGETFUL)).conclusion
    assert (end.version, end.against, end.verdict) == ("buyers/3", "buyers/2", "promoted")


def test_a_newer_champion_that_comes_meanwhile_stays(champion_of_january: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    recipe, settle = world.recipe(**FORGETFUL), pipeline._move

    def colleague_first(*args: Any) -> None:
        monkeypatch.setattr(pipeline, "_move", settle)
        assert execute(world.ws, declare(world.ws, recipe, world.source, 7)).champion
        settle(*args)

    monkeypatch.setattr(pipeline, "_move", colleague_first)
    end = world.retrain(2, recipe).conclusion
    assert (end.version, end.verdict, champion(world)) == ("buyers/2", "overtaken", "buyers/3")


def test_what_cannot_be_trained_concludes_its_cycle(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(2, slope=-3.0)
    impossible = world.recipe(split=vd.TimeSplit(validation="1h", test="1h"))
    with pytest.raises(SplitError):
        world.retrain(2, impossible)
    ((_, _), (_, end)) = cycles(world.ws, "buyers")
    assert (end.verdict, end.version) == ("failed", None)
    assert "rows" in end.failure
    assert world.retrain(2, impossible).found
    assert world.retrain(2, world.recipe(**FORGETFUL), asked=True).conclusion.verdict == "promoted"


def test_watching_tells_news_and_each_problem_once(champion_of_january: Any) -> None:
    world = champion_of_january
    looks = 0

    class Impatient:
        """Lets a thing arrive between two looks."""

        def __init__(self, clock: Any) -> None:
            self.now, self.monotonic = clock.now, clock.monotonic

        def sleep(self, seconds: float) -> None:
            nonlocal looks
            looks += 1
            assert seconds == 60
            if looks == 2:
                world.write(world.frame(2).drop("wants"), "visits-02")
            if looks == 5:
                world.deliver(2)
            assert looks < 9

    ws = dataclasses.replace(world.ws, clock=Impatient(world.ws.clock))
    news = list(islice(watch(ws, world.recipe(), world.source, every=60), 2))
    assert isinstance(news[0], SchemaError)
    assert not isinstance(news[1], VelodromeError)
    assert news[1].cycle.window == "visits-02"
    assert looks == 5
