// Draws the figures of the optimiser's steps.
(() => {
  const place = document.getElementById("plots");
  if (!place) return;
  const series = JSON.parse(place.dataset.series), figures = JSON.parse(place.dataset.figures);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  for (const name of Object.keys(series)) {
    if (name === "x") continue;
    const box = document.createElement("div");
    box.className = "plot";
    const heading = document.createElement("h3");
    heading.textContent = figures[name];
    box.append(heading);
    place.append(box);
    const axis = { stroke: colour("--note"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
    const range = (plot, low, high) => low === high ? [Math.min(0, low), Math.max(0, high) || 1] : uPlot.rangeNum(low, high, 0.1, true);
    new uPlot({ width: box.clientWidth, height: 180, scales: { x: { time: false }, y: { range } }, axes: [axis, axis], legend: { show: false },
      series: [{}, { label: figures[name], stroke: colour("--weights"), width: 1.5, points: { show: series.x.length < 60 } }] },
      [series.x, series[name]], box);
    const canvas = box.querySelector("canvas");
    const values = series[name].filter((value) => value !== null);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${figures[name]}: ${values.length} steps, first ${values[0]}, last ${values.at(-1)}, least ${Math.min(...values)}, most ${Math.max(...values)}`);
  }
})();
