// Draws the tree of candidates: each a link to its page, coloured by lever and sized by gain.
(() => {
  const place = document.getElementById("tree");
  if (!place) return;
  const rows = JSON.parse(place.dataset.tree);
  const known = new Set(rows.map((row) => row.id));
  const top = { id: "top", parent: "" };
  const tree = d3.stratify().id((row) => row.id).parentId((row) => (row === top ? "" : known.has(row.parent) ? row.parent : "top"))([top, ...rows]);
  const across = 96, down = 46;
  d3.tree().nodeSize([down, across])(tree);
  const nodes = tree.descendants().filter((node) => node.data !== top);
  const low = Math.min(...nodes.map((node) => node.x)), high = Math.max(...nodes.map((node) => node.x));
  const width = Math.max(...nodes.map((node) => node.depth)) * across + 60, height = high - low + 60;
  const make = (name, attributes, parent) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent?.append(element);
    return element;
  };
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `Tree of ${nodes.length} candidates` });
  const at = (node) => [(node.depth - 1) * across + 30, node.x - low + 24];
  for (const node of nodes) {
    if (node.parent.data === top) continue;
    const [x, y] = at(node), [px, py] = at(node.parent);
    make("path", { class: "edge", d: `M${px} ${py}C${px + across / 2} ${py} ${x - across / 2} ${y} ${x} ${y}` }, svg);
  }
  for (const node of nodes) {
    const [x, y] = at(node), row = node.data;
    const words = `generation ${row.id}, ${row.lever}, ${row.verdict}, dev ${row.score?.toFixed(4) ?? "-"}`;
    const link = make("a", { href: row.href, class: "node", "aria-label": words }, svg);
    const radius = 6 + 10 * Math.sqrt(Math.min(1, Math.max(0, (row.gain ?? 0) * 4)));
    make("circle", { cx: x, cy: y, r: radius, class: `lever-${row.lever} ${row.verdict === "rejected" ? "rejected" : "made"}` }, link);
    make("text", { x, y: y + radius + 13, "text-anchor": "middle" }, link).textContent = `${row.id}: ${row.score?.toFixed(3) ?? "-"}`;
    make("title", {}, link).textContent = words;
  }
  place.append(svg);
})();
