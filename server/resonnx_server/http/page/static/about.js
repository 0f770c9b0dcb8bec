// The chosen version: how it runs, and how its export was checked.

import { byId, make, say, table, tell } from "./dom.js";
import { plot } from "./plot.js";
import { count, duration, number, percent, reference } from "./wording.js";

/** Shows a version as /v1/models/NAME describes it. */
export function showAbout(model) {
  byId("about").hidden = false;
  say(byId("about-title"), `How ${model.name}, version ${model.version}, runs`);
  tell(byId("facts"), [
    ...model.sessions.map((each) => [each.file, `${each.provider}, ${each.precision}, ${count(each.instances, "batch", "batches")} at a time`]),
    ["Largest batch", count(model.max_batch_size, "row")],
    ...(model.classes ? [["Classes", String(model.classes)]] : []),
    ...(model.words ? [["Words", String(model.words)]] : []),
    ...(model.input ? [["Input", `${model.input.width} × ${model.input.height} pixels`]] : []),
    ...(model.heatmaps_unsupported ? [["No heatmaps", model.heatmaps_unsupported]] : []),
    ["Identity", model.identity ? `sha256 ${model.identity.slice(0, 16)}…` : "–"],
  ]);
  showLatencies(model.sessions.filter((each) => each.latencies.length));
  showChecks(model);
}

function showLatencies(sessions) {
  byId("numbers").hidden = !sessions.length;
  byId("plots").replaceChildren(
    ...sessions.flatMap((session) => [
      plot(`${session.file}: expected time of a batch, ms`, session.latencies.map((each) => [each.batch_size, each.expected_us / 1000]), number),
      plot(`${session.file}: rows a second`, session.latencies.map((each) => [each.batch_size, rowsPerSecond(session, each)]), number),
    ]),
  );
  const lines = sessions.flatMap((session) =>
    session.latencies.map((each) => [
      session.file,
      String(each.batch_size),
      duration(each.expected_us / 1e6),
      `± ${duration(each.spread_us / 1e6)}`,
      number(rowsPerSecond(session, each)),
    ]),
  );
  const heads = ["File", "Batch size", "Expected time", "Mean error", "Rows a second"];
  byId("latencies").replaceChildren(table("Measured at load, and corrected by every batch since", heads, lines));
}

/** Returns the throughput with batches of a size: `instances` run at once, and the expected time is that of each. */
function rowsPerSecond(session, { batch_size: size, expected_us: us }) {
  return (session.instances * size * 1e6) / us;
}

function showChecks(model) {
  const parity = model.parity ?? { checks: [], agreements: [] };
  const damaged = parity.damaged_copy_rejected ? " The same check rejected a damaged copy." : "";
  const golden = model.verified ? " At load, its answers agreed with the golden examples." : " It was not verified at load.";
  say(byId("checked"), `Compared with ${reference(model.verified_against)}.${golden}${damaged}`);
  const checks = [...parity.checks, ...parity.agreements];
  const nearest = Math.max(0, ...checks.map((each) => (each.bound ? each.max_abs_difference / each.bound : 0)));
  say(byId("checks-summary"), `${count(checks.length, "check")}; the largest difference is ${percent(nearest)} of its bound`);
  const rows = checks.map((each) => [
    each.name ?? `${each.file} in ${each.precision}`,
    String(each.pictures),
    number(each.max_abs_difference),
    number(each.bound),
    String(each.identical),
  ]);
  const heads = ["Check", "Compared", "Largest difference", "Bound", "Same answer"];
  byId("checks").hidden = !rows.length;
  byId("parity").replaceChildren(table("Comparison with PyTorch", heads, rows));
  const open = (model.assumptions ?? []).filter((each) => !each.confirmed);
  byId("assumed").hidden = !open.length;
  say(byId("assumed-summary"), `${count(open.length, "property", "properties")} assumed and not confirmed`);
  const texts = open.map((each) => `${each.name}: ${each.value}${each.option ? ` (${each.option})` : ""}`);
  byId("assumptions").replaceChildren(...texts.map((text) => make("li", {}, text)));
}
