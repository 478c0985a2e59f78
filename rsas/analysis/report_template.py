"""The HTML template of a report, with styles for screens, phones and paper, light and dark."""

from __future__ import annotations

from string import Template

__all__ = ["PAGE"]

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>rsas: $title</title>
<style>
:root { --ink: #1e293b; --soft: #5b6b80; --paper: #ffffff; --raised: #f4f6f9; --line: #dde3ea; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5eaf1; --soft: #9aa8ba; --paper: #11161d; --raised: #1a212b; --line: #2d3744; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; margin: 0; } h2 { font-size: 1.45rem; margin: 3rem 0 .5rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 .25rem; }
header p, footer { color: var(--soft); margin: .25rem 0 0; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin-top: .75rem; }
a { color: inherit; text-decoration-color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .6rem;
  margin: 1rem 0; }
.cards div { background: var(--raised); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .8rem; }
.cards b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: .8rem; }
figure { margin: .75rem 0; width: 100%; }
.table { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--soft); }
pre { background: var(--raised); padding: 1rem; border-radius: 8px; overflow-x: auto;
  font-size: .8rem; }
footer { margin-top: 4rem; font-size: .85rem; }
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --raised: #f4f4f4; --line: #ccc; }
  body { max-width: none; padding: 0; font-size: 11px; } nav { display: none; }
  figure, .cards, tr { break-inside: avoid; } h2, h3, h3 + p { break-after: avoid; }
  .table { overflow: visible; } table { font-size: 8px; } td, th { white-space: normal; }
}
</style>
<script>$plotly</script>
</head>
<body>
<header><h1>$title</h1><p>Sparsity-accuracy trade-off, searched by rsas; written $made.</p>
<nav>$contents</nav></header>
<main>$body</main>
<footer>Written by <code>rsas report</code>. Point at a figure for values; drag to zoom.</footer>
<script type="application/json" id="figures">$figures</script>
<script>
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
function colors(layout, printing) {
  const isDark = dark.matches && !printing;
  const changes = {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    "font.color": isDark ? "#e5eaf1" : "#1e293b"};
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    for (const part of ["gridcolor", "zerolinecolor", "linecolor"]) {
      changes[name + "." + part] = isDark ? "#2d3744" : "#dde3ea";
    }
  }
  return changes;
}
function narrow(layout) {  // on a phone, legend and title would cover the figure
  if (innerWidth < 600) {
    layout.margin = {...layout.margin, l: 48, r: 10};
    layout.legend = {...layout.legend, x: 0, xanchor: "left", font: {size: 10}};
  }
  return layout;
}
const drawn = Object.entries(figures).map(([id, figure]) =>
  Plotly.newPlot(id, figure.data, narrow(figure.layout), {responsive: true, displaylogo: false})
    .then((element) => Plotly.relayout(element, colors(element.layout, false))));
function recolor(printing) {
  for (const id of Object.keys(figures)) {
    const element = document.getElementById(id);
    Plotly.relayout(element, colors(element.layout, printing));
  }
}
dark.addEventListener("change", () => recolor(false));
addEventListener("beforeprint", () => recolor(true));
addEventListener("afterprint", () => recolor(false));
Promise.all(drawn).then(() => { document.body.dataset.ready = "true"; });
</script>
</body>
</html>
""")
