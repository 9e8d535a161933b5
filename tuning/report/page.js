"use strict";
// Inflates Plotly, draws each figure from the JSON beside it, and again when the page becomes dark, light or paper.
(async () => {
  const figures = [...document.querySelectorAll("figure")].map((figure) => ({
    plot: figure.querySelector(".plot"),
    ...JSON.parse(figure.querySelector("script").textContent),
  }));
  if (!figures.length) return;
  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (sign) => sign.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  } catch (error) {
    for (const { plot } of figures) {
      plot.style.height = "auto";
      plot.textContent = "This browser cannot draw the plots: the tables have their numbers.";
    }
    return;
  }

  const layoutOf = (plot, layout) => {
    const style = getComputedStyle(plot);
    const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
    const narrow = window.innerWidth < 640;
    const axes = ["xaxis", "yaxis", ...Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name))];
    const themed = Object.fromEntries(axes.map((name) => {
      const axis = layout[name] ?? {};
      const title = { standoff: 12, ...(typeof axis.title === "string" ? { text: axis.title } : axis.title) };
      return [name, { automargin: true, gridcolor: line, zerolinecolor: line, linecolor: line, ...axis, title }];
    }));
    return {
      margin: { l: 50, r: 16, t: 24, b: 44 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { align: "left" },
      ...layout,
      ...themed,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style.fontFamily, color: text, size: narrow ? 11 : 13 },
    };
  };
  const config = { displaylogo: false, displayModeBar: matchMedia("(hover: hover)").matches && "hover", responsive: true };
  const draw = () => Promise.all(figures.map(({ plot, data, layout }) =>
    Plotly.react(plot, data, layoutOf(plot, layout), config)));
  await draw();
  for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", draw);
  document.documentElement.dataset.drawn = figures.length;
})();
