// Lists recent traces, and draws one as a waterfall, from Jaeger's own API. Data reaches the page as text only.

const view = document.getElementById("view");
const LIST_REFRESH_MS = 5000;
const TRACE_REFRESH_MS = 2000; // a trace just begun still grows
const TRACE_REFRESHES = 5;
const PER_SERVICE = 30;

function element(tag, properties = {}, ...children) {
  const { style, ...plain } = properties;
  const node = Object.assign(document.createElement(tag), plain);
  for (const [name, value] of Object.entries(style ?? {})) node.style.setProperty(name, value);
  node.append(...children);
  return node;
}

const show = (...nodes) => view.replaceChildren(...nodes);
const message = (text, bad = false) => element("div", { className: "card" },
  element("div", { className: bad ? "message bad" : "message", textContent: text }));

async function ask(path) {
  let response;
  try {
    response = await fetch(path);
  } catch {
    throw new Error("Jaeger does not answer. Is the cluster still up (make status)?");
  }
  if (response.status === 404) throw new Error("Jaeger has no such trace: not recorded, not arrived yet, or dropped.");
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.errors?.[0]?.msg ?? `Jaeger answered ${response.status}.`);
  return answer.data ?? [];
}

function length(microseconds) {
  if (microseconds < 1000) return `${microseconds} µs`;
  if (microseconds < 1e6) return `${(microseconds / 1000).toFixed(microseconds < 1e4 ? 2 : 1)} ms`;
  return `${(microseconds / 1e6).toFixed(2)} s`;
}

// Far apart for the platform's own; a service added later gets one from its name.
const HUES = { gateway: 212, users: 150, "users-worker": 95, orders: 335, "orders-worker": 30 };

function colour(service) {
  let hash = 7;
  for (const letter of service) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return `hsl(${HUES[service] ?? hash} 58% 50%)`;
}

const chip = (service) => element("span", { className: "chip", textContent: service, style: { "--colour": colour(service) } });
const isError = (span) => span.tags.some((tag) => tag.key === "error" && tag.value === true);
const serviceOf = (trace, span) => trace.processes[span.processID].serviceName;

function summarise(trace) {
  const ids = new Set(trace.spans.map((span) => span.spanID));
  const start = Math.min(...trace.spans.map((span) => span.startTime));
  const end = Math.max(...trace.spans.map((span) => span.startTime + span.duration));
  const isRoot = (span) => !span.references.some((reference) => ids.has(reference.spanID));
  const spans = [...trace.spans].sort((a, b) => a.startTime - b.startTime);
  const services = [...new Set(spans.map((span) => serviceOf(trace, span)))];
  return { trace, start, duration: end - start, spans, services, root: spans.find(isRoot) ?? spans[0], errors: spans.filter(isError).length };
}

// ---- the list ----

const wanted = { service: "" };

async function drawList() {
  const services = (await ask("/api/services")).filter((name) => name !== "jaeger").sort();
  const asked = wanted.service ? [wanted.service] : services;
  const answers = await Promise.all(asked.map((service) =>
    ask(`/api/traces?${new URLSearchParams({ service, limit: PER_SERVICE, lookback: "24h" })}`)));
  const byId = new Map(answers.flat().map((trace) => [trace.traceID, trace]));
  const found = [...byId.values()].filter((trace) => trace.spans.length).map(summarise).sort((a, b) => b.start - a.start);
  const longest = Math.max(1, ...found.map((one) => one.duration));

  const choice = element("select", { ariaLabel: "service", onchange: () => { wanted.service = choice.value; route(); } },
    element("option", { value: "", textContent: "all services" }),
    ...services.map((name) => element("option", { value: name, textContent: name, selected: name === wanted.service })));
  const bar = element("div", { className: "bar" }, choice,
    element("span", { textContent: `${found.length} recent ${found.length === 1 ? "trace" : "traces"}, newest first` }));
  show(bar, found.length
    ? element("div", { className: "card" }, ...found.map((one) => listRow(one, longest)))
    : message("No traces yet. `make trace` makes one, and so does any request to the gateway."));
}

function listRow({ trace, start, duration, spans, services, root, errors }, longest) {
  const failed = errors ? [element("span", { className: "error", textContent: `${errors} failed` })] : [];
  return element("a", { className: "trace", href: `/trace/${trace.traceID}` },
    element("span", { className: "number quiet", textContent: new Date(start / 1000).toLocaleTimeString(), title: new Date(start / 1000).toString() }),
    element("span", { className: "what" },
      element("div", { className: "name", textContent: root.operationName }),
      element("div", { className: "chips" }, ...services.map(chip), element("span", { textContent: `${spans.length} ${spans.length === 1 ? "span" : "spans"}` }), ...failed)),
    element("span", { className: "lengths" },
      element("div", { className: "length", style: { width: `${(100 * duration) / longest}%` } })),
    element("span", { className: "number right", textContent: length(duration) }));
}

// ---- one trace ----

const opened = new Set();

async function drawTrace(id) {
  const [trace] = await ask(`/api/traces/${encodeURIComponent(id)}`);
  const one = summarise(trace);
  document.title = `${one.root.operationName} · trace`;
  show(
    element("h1", { textContent: one.root.operationName }),
    element("p", { className: "facts" },
      element("span", { className: "mono", textContent: id }),
      ` · ${new Date(one.start / 1000).toLocaleString()} · ${length(one.duration)} · ${one.spans.length} spans`,
      ...(one.errors ? [element("span", { className: "error", textContent: ` · ${one.errors} failed` })] : [])),
    element("div", { className: "chips bar" }, ...one.services.map(chip)),
    element("div", { className: "card" }, scale(one.duration), ...rows(one)));
}

function scale(duration) {
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) =>
    element("span", { className: "number", textContent: length(Math.round(duration * part)), style: { left: `${part * 100}%` } }));
  return element("div", { className: "scale" }, element("span", { textContent: "span" }), element("span", { className: "ticks" }, ...ticks));
}

function rows(one) {
  const ids = new Set(one.spans.map((span) => span.spanID));
  const children = new Map();
  for (const span of one.spans) {
    const parent = span.references.map((reference) => reference.spanID).find((id) => ids.has(id)) ?? null;
    children.set(parent, [...(children.get(parent) ?? []), span]);
  }
  const walk = (parent, depth) => (children.get(parent) ?? []).flatMap((span) =>
    [...row(one, span, depth), ...walk(span.spanID, depth + 1)]);
  return walk(null, 0);
}

function row(one, span, depth) {
  const service = serviceOf(one.trace, span);
  const left = (100 * (span.startTime - one.start)) / Math.max(1, one.duration);
  const width = (100 * span.duration) / Math.max(1, one.duration);
  const isLate = left + width > 75;
  const details = element("div", { className: "details", hidden: !opened.has(span.spanID), style: { "--depth": depth } }, facts(one, span));
  const button = element("button", { className: "span", ariaExpanded: String(!details.hidden), style: { "--depth": depth, "--colour": colour(service) } },
    element("span", { className: "label", title: `${service}: ${span.operationName}` },
      element("span", { className: isError(span) ? "error" : "", textContent: span.operationName }),
      element("span", { className: "service", textContent: service })),
    element("span", { className: "lane" },
      element("i", { style: { left: `min(${left}%, 100% - 3px)`, width: `${width}%` } }),
      element("b", { className: "number", textContent: length(span.duration), style: isLate ? { right: `${100 - left}%` } : { left: `${left + width}%` } })));
  button.onclick = () => {
    details.hidden = !details.hidden;
    button.ariaExpanded = String(!details.hidden);
    opened[details.hidden ? "delete" : "add"](span.spanID);
  };
  return [button, details];
}

function facts(one, span) {
  const pairs = [
    ["service", serviceOf(one.trace, span)], ["starts after", length(span.startTime - one.start)], ["lasts", length(span.duration)],
    ...span.tags.map((tag) => [tag.key, tag.value]),
    ...span.logs.flatMap((log) => log.fields.map((field) => [`${length(log.timestamp - one.start)} ${field.key}`, field.value])),
    ["span id", span.spanID],
  ];
  return element("table", {}, ...pairs.map(([name, value]) =>
    element("tr", {}, element("td", { textContent: name }), element("td", { className: "mono", textContent: String(value) }))));
}

// ---- which of the two ----

let timer = 0;

async function route(refreshes = 0) {
  clearTimeout(timer);
  const id = location.pathname.match(/^\/trace\/([0-9a-fA-F]+)$/)?.[1];
  if (!view.hasChildNodes()) show(message("Loading…"));
  try {
    await (id ? drawTrace(id) : drawList());
  } catch (error) {
    show(message(error.message, true));
  }
  if (!id || refreshes < TRACE_REFRESHES) {
    const again = () => (document.hidden || view.contains(document.activeElement) ? schedule() : route(refreshes + 1));
    const schedule = () => { timer = setTimeout(again, id ? TRACE_REFRESH_MS : LIST_REFRESH_MS); };
    schedule();
  }
}

document.getElementById("open").onsubmit = (event) => {
  event.preventDefault();
  const id = new FormData(event.target).get("id").trim();
  if (id) location.href = `/trace/${encodeURIComponent(id)}`;
};
route();
