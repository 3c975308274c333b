/**
 * Drawing figures: the only user of Plotly. Figures arrive complete from the server; only settings that depend on this
 * page are added here (text colour, height, dragging on touch screens).
 */

const COARSE = matchMedia("(pointer: coarse)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const CONFIG = {
  displaylogo: false,
  showSendToCloud: false, // by default Plotly offers to send the figure to its vendor's servers
  displayModeBar: COARSE.matches ? false : "hover",
  modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]],
};
const drawn = new Map();
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) if (drawn.has(target) && target.clientWidth) globalThis.Plotly.Plots.resize(target);
});

DARK.addEventListener("change", () => {
  for (const [node, figure] of drawn) draw(node, figure);
});

/**
 * Draw a figure, or update one already drawn (zoom and hidden legend entries are kept).
 *
 * @param {HTMLElement} node
 * @param {{data: any[], layout: any}} figure
 * @param {(trial: number) => void} [onTrial] called with the trial whose mark was clicked
 */
export async function draw(node, figure, onTrial = undefined) {
  const plotly = await library();
  if (!node.isConnected) return;
  const first = !drawn.has(node);
  drawn.set(node, figure);
  if (figure.layout.height) node.style.height = `${figure.layout.height}px`;
  await plotly.react(node, figure.data, themed(figure.layout, node), CONFIG);
  if (first) resized.observe(node);
  if (first && onTrial) {
    node.on("plotly_click", (event) => {
      const number = event.points[0]?.customdata?.[0];
      if (number !== undefined) onTrial(Math.round(number));
    });
  }
}

/**
 * Draw one metric of one trial.
 *
 * @param {HTMLElement} node
 * @param {{x: number[], y: number[], name: string, colour: string, log: boolean}} line
 */
export function drawLine(node, { x, y, name, colour, log }) {
  const axis = { gridcolor: "rgba(128, 134, 145, 0.20)", zeroline: false, automargin: true };
  return draw(node, {
    data: [
      {
        type: "scatter",
        mode: x.length < 60 ? "lines+markers" : "lines",
        x,
        y,
        line: { color: colour, width: 2 },
        marker: { size: 4 },
        hovertemplate: "%{x:,} examples<br>%{y:.5g}<extra></extra>",
      },
    ],
    layout: {
      paper_bgcolor: "rgba(0, 0, 0, 0)",
      plot_bgcolor: "rgba(0, 0, 0, 0)",
      margin: { l: 56, r: 14, t: 12, b: 46 },
      hovermode: "closest",
      uirevision: name,
      font: { size: 12 },
      xaxis: { ...axis, title: { text: "examples seen", standoff: 8 }, rangemode: "tozero" },
      yaxis: { ...axis, type: log ? "log" : "linear", nticks: 6, exponentformat: "power" },
    },
  });
}

/**
 * Release a figure.
 *
 * @param {HTMLElement} node
 */
export function release(node) {
  resized.unobserve(node);
  if (drawn.delete(node)) globalThis.Plotly.purge(node);
}

/**
 * @param {any} layout
 * @param {HTMLElement} node
 */
function themed(layout, node) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--muted").trim();
  const surface = style.getPropertyValue("--card").trim();
  return {
    ...layout,
    autosize: true,
    height: node.clientHeight || 320,
    dragmode: COARSE.matches ? false : "zoom",
    font: { ...layout.font, family: getComputedStyle(document.body).fontFamily, color: ink },
    hoverlabel: { ...layout.hoverlabel, bgcolor: surface, font: { ...layout.hoverlabel?.font, color: style.getPropertyValue("--text").trim() } },
    modebar: { bgcolor: "rgba(0, 0, 0, 0)", color: ink, activecolor: style.getPropertyValue("--accent").trim() },
  };
}

/** @returns {Promise<any>} Plotly, once its script has loaded */
function library() {
  if (globalThis.Plotly) return Promise.resolve(globalThis.Plotly);
  return new Promise((resolve, reject) => {
    const script = document.getElementById("plotly");
    script.addEventListener("load", () => resolve(globalThis.Plotly), { once: true });
    script.addEventListener("error", () => reject(new Error("The plotting library could not be loaded.")), { once: true });
  });
}
