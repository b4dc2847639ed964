// Draws the curves of a report with uPlot. Reads the run from the page's JSON block; opens no connection.
(() => {
  "use strict";
  const run = JSON.parse(document.getElementById("run").textContent);
  const root = document.documentElement;
  const charts = new Map();
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const isDark = () => getComputedStyle(root).colorScheme === "dark";

  const superscript = (n) => String(n).replace(/./g, (c) => ({ "-": "⁻" }[c] ?? "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
  const short = (value) => {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
      const power = Math.floor(Math.log10(size) + 1e-9), factor = value / 10 ** power;
      return (Math.abs(factor - 1) < 1e-9 ? "" : factor.toPrecision(2).replace(/\.0$/, "") + "·") + "10" + superscript(power);
    }
    return String(+value.toPrecision(4));
  };

  // Colour by depth: first layer blue, last layer warm; an ordinary curve has the accent or the warm colour.
  const byDepth = (index, count) => {
    const share = count < 2 ? 0 : index / (count - 1);
    return `hsl(${Math.round(225 + 165 * share)} ${isDark() ? "85% 70%" : "72% 45%"})`;
  };
  const series = (chart) => chart.series.map((one) => ({
    label: one.label,
    stroke: one.depth == null ? colour(one.role === "main" ? "--accent" : "--warm") : byDepth(one.depth, chart.depths),
    dash: one.dashed ? [5, 4] : undefined,
    width: 1.75,
    points: { show: run.epochs.length < 3 },
    value: (_, value) => short(value) + (value == null ? "" : chart.unit),
  }));

  function draw(place) {
    const chart = run.charts[place.dataset.chart];
    const log = place.dataset.scale === "log";
    const values = chart.series.map((one) => log ? one.values.map((v) => (v > 0 ? v : null)) : one.values);
    const axis = () => ({
      stroke: colour("--faint"), font: `11.5px ${getComputedStyle(document.body).fontFamily}`,
      grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false },
    });
    const rest = (plot) => plot.setLegend({ idx: run.epochs.length - 1 });      // away from the curves: the last values
    charts.get(place)?.destroy();
    charts.set(place, new uPlot({
      width: place.clientWidth, height: place.closest(".wide") ? 296 : 250,
      scales: { x: { time: false }, y: log ? { distr: 3 } : { range: (_, low, high) => [Math.min(0, low), high * 1.05 || 1] } },
      axes: [
        { ...axis(), size: 30, values: (_, ticks) => ticks.map((v) => (Number.isInteger(v) ? v : "")) },
        { ...axis(), size: 58, values: (_, ticks) => ticks.map((v) => (v == null ? "" : short(v) + chart.unit)) },
      ],
      cursor: { sync: { key: "epoch" }, points: { size: 7 }, focus: { prox: 16 } },
      focus: { alpha: 0.35 },
      padding: [10, 12, 0, 0],
      legend: { markers: { dash: (_, index) => (chart.series[index - 1]?.dashed ? "dashed" : "solid") } },
      hooks: { ready: [rest], setCursor: [(plot) => { if (plot.cursor.left < 0) rest(plot); }] },
      series: [{ label: "epoch", value: (_, value) => (value == null ? "–" : value) }, ...series(chart)],
    }, [run.epochs, ...values], place));
  }

  const places = [...document.querySelectorAll(".chart")];
  const drawAll = () => places.forEach(draw);
  const grow = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const chart = charts.get(target);
    if (chart && chart.width !== target.clientWidth) chart.setSize({ width: target.clientWidth, height: chart.height });
  }));
  places.forEach((place) => grow.observe(place));
  document.querySelectorAll("[data-scale-of]").forEach((button) => button.addEventListener("click", () => {
    const place = places.find((one) => one.dataset.chart === button.dataset.scaleOf);
    place.dataset.scale = button.dataset.to;
    button.parentElement.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", one === button));
    draw(place);
  }));
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
})();
