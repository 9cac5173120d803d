// Draws the charts of a page with uPlot. What is hidden or zoomed stands in the address, so that a link keeps it.
"use strict";
(() => {
  const drawn = new Map();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const many = 8;

  const formats = (kind, lang) => {
    const number = (options) => new Intl.NumberFormat(lang, options);
    if (kind === "bytes") {
      const units = lang === "fr" ? ["o", "ko", "Mo", "Go", "To"] : ["B", "kB", "MB", "GB", "TB"];
      return (v) => {
        let unit = 0;
        while (Math.abs(v) >= 1000 && unit < units.length - 1) { v /= 1000; unit += 1; }
        return `${number({ maximumSignificantDigits: 3 }).format(v)}\u00a0${units[unit]}`;
      };
    }
    if (kind === "busy") return (v) => number({ style: "percent", maximumFractionDigits: 0 }).format(v);
    if (kind === "tokens") return (v) => number({ notation: "compact", maximumSignificantDigits: 3 }).format(v);
    if (kind === "seconds") return (v) => `${number({ maximumSignificantDigits: 4 }).format(v)}\u00a0s`;
    return (v) => number({ maximumFractionDigits: 3 }).format(v);
  };

  const state = () => new URLSearchParams(location.search);
  const keep = (changes) => {
    const query = state();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === "") query.delete(name); else query.set(name, value);
    }
    const text = query.toString();
    history.replaceState(history.state, "", location.pathname + (text ? `?${text}` : "") + location.hash);
  };

  const means = (lines, size) => Array.from({ length: size }, (_, i) => {
    const found = lines.map((line) => line.values[i]).filter((v) => v !== null);
    return found.length ? found.reduce((a, b) => a + b, 0) / found.length : null;
  });

  const draw = (place, data) => {
    const kind = place.dataset.kind;
    const name = place.closest("figure").id;
    const format = formats(kind, place.dataset.lang);
    const crowd = data.lines.length > many;
    const hidden = new Set((state().get(`hide-${name}`) || "").split(",").filter(Boolean));
    const grid = { stroke: css("--line"), width: 1 };
    const axis = { stroke: css("--soft"), grid, ticks: grid, font: "12px system-ui, sans-serif" };
    const series = data.lines.map((line, i) => ({
      label: line.name,
      stroke: crowd ? css("--idle") : css(`--s${(i % many) + 1}`),
      width: crowd ? 1 : 2,
      dash: crowd ? undefined : [undefined, [7, 3], [2, 3], [10, 3, 2, 3]][Math.floor(i / 2) % 4],
      alpha: crowd ? 0.55 : 1,
      spanGaps: true,
      points: { show: data.x.length < 2, size: 5 },
      show: !hidden.has(line.name),
      value: (_, v) => (v === null ? "–" : format(v)),
    }));
    const columns = [data.x, ...data.lines.map((line) => line.values)];
    if (data.lines.length > 2) {
      series.push({
        label: place.dataset.mean, stroke: css("--ink"), width: 3, spanGaps: true, points: { show: false },
        show: !hidden.has("~mean"), value: (_, v) => (v === null ? "–" : format(v)),
      });
      columns.push(means(data.lines, data.x.length));
    }
    const range = [state().get(`from-${name}`), state().get(`to-${name}`)].map((v) => (v === null ? NaN : Number(v)));
    const zoomed = range.every(Number.isFinite);
    const old = drawn.get(place);
    if (old) old.destroy();
    place.replaceChildren();
    const wide = place.clientWidth;
    const plot = new uPlot({
      width: wide, height: Math.round(Math.min(360, Math.max(220, wide * 0.42))),
      scales: { x: { time: false } },
      legend: { live: true, show: !crowd },
      cursor: { y: false, drag: { x: true, y: false } },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map((v) => (Number.isInteger(v) ? v.toLocaleString(place.dataset.lang) : "")) },
        { ...axis, size: 66, values: (_, ticks) => ticks.map(format) },
      ],
      series: [{ label: place.dataset.x }, ...series],
      hooks: {
        setSeries: [(u, i, options) => {
          if (options.show === undefined) return;
          const off = u.series.slice(1).filter((s) => !s.show).map((s) => (s.label === place.dataset.mean ? "~mean" : s.label));
          keep({ [`hide-${name}`]: off.join(",") });
        }],
        setScale: [(u, scale) => {
          if (scale !== "x" || !u.status) return;
          const { min, max } = u.scales.x;
          const all = min <= data.x[0] && max >= data.x[data.x.length - 1];
          keep({ [`from-${name}`]: all ? null : min.toPrecision(6), [`to-${name}`]: all ? null : max.toPrecision(6) });
        }],
      },
    }, columns, place);
    if (zoomed) plot.setScale("x", { min: range[0], max: range[1] });
    for (const row of place.querySelectorAll(".u-legend .u-series:not(:first-child) th")) {
      row.tabIndex = 0;
      row.setAttribute("role", "button");
      row.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); row.click(); }
      });
    }
    drawn.set(place, plot);
    place.chartData = data;
    sized.observe(place);
  };

  let waiting = 0;
  const sized = new ResizeObserver((changes) => {
    if (changes.every(({ target }) => drawn.get(target)?.width === target.clientWidth)) return;
    clearTimeout(waiting);
    waiting = setTimeout(again, 100);
  });

  const load = async (place) => {
    try {
      const answer = await fetch(place.dataset.chart, { headers: { Accept: "application/json" } });
      if (answer.ok) draw(place, await answer.json());
    } catch { /* the table is there */ }
  };

  const begin = (root) => {
    for (const place of root.querySelectorAll("[data-chart]")) if (!drawn.has(place)) load(place);
  };

  const again = () => {
    for (const [place, plot] of drawn) {
      if (!place.isConnected) { plot.destroy(); drawn.delete(place); } else if (place.chartData) draw(place, place.chartData);
    }
  };

  begin(document);
  document.addEventListener("htmx:after:swap", () => { again(); begin(document); });
  document.addEventListener("tapestry:theme", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  // A run that goes on: its charts are drawn anew now and then.
  if (document.querySelector("#live[data-hx-sse\\:connect]")) {
    setInterval(() => { if (!document.hidden) for (const place of drawn.keys()) if (place.isConnected) load(place); }, 20000);
  }
})();
