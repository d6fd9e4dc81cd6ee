"use strict";
(() => {
  const root = document.documentElement;
  const sections = JSON.parse(document.getElementById("results").textContent);
  const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];
  const KINDS = { linked: "#009e73", copied: "#56b4e9", block: "#e69f00", new: "#cc79a7" };
  const charts = [];
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const size = (n) => {
    const units = ["B", "KB", "MB", "GB", "TB"];
    let i = 0;
    while (Math.abs(n) >= 1000 && i < units.length - 1) { n /= 1000; i++; }
    return `${i ? Number(n.toPrecision(3)) : Math.round(n)} ${units[i]}`;
  };
  const short = (text) => (text.length > 18 ? `${text.slice(0, 8)}…${text.slice(-9)}` : text);
  const draw = (canvas, type, data, options) => {
    if (options.indexAxis === "y" && innerWidth < 720) data.labels = data.labels.map(short); // else the axis cuts them
    const chart = new Chart(canvas, {
      type, data,
      options: { animation: false, responsive: true, maintainAspectRatio: false, ...options },
    });
    charts.push(chart);
    return chart;
  };
  const paint = () => {
    for (const chart of charts) {
      chart.options.color = css("--fg");
      for (const scale of Object.values(chart.options.scales || {})) {
        scale.ticks = { ...scale.ticks, color: css("--fg") };
        scale.grid = { color: css("--line") };
        if (scale.title) scale.title.color = css("--fg");
      }
      chart.update();
    }
  };
  const padded = (n) => 256 * Math.ceil(n / 256); // as engines round contexts
  const memory = (linear, wanted, nParallel) => {
    const nCtx = padded(wanted), perSeq = padded(nCtx / nParallel);
    const sums = [0, 0, 0, 0];
    for (const part of linear) {
      sums[0] += part.fixed_bytes;
      for (const kv of part.kv) {
        const cells = kv.max_cells === null ? perSeq : Math.min(perSeq, kv.max_cells);
        sums[1] += kv.bytes_per_cell * cells * nParallel;
      }
      sums[2] += part.recurrent_bytes_per_copy * part.recurrent_copies;
      sums[3] += part.compute_fixed_bytes + part.compute_bytes_per_token * nCtx;
    }
    return sums;
  };
  const axis = (text, format) => ({ stacked: true, beginAtZero: true, title: { display: true, text }, ticks: { callback: format } });
  const drawers = {
    memory(plot, holder, canvas) {
      const slider = holder.querySelector("input"), out = holder.querySelector("output");
      const body = holder.querySelector("tbody");
      const heads = Array.from(holder.querySelectorAll("thead th"), (cell) => cell.textContent);
      const names = heads.slice(1, -1);
      const chart = draw(canvas, "bar", {
        labels: plot.setups.map((one) => one.title),
        datasets: names.map((label, i) => ({ label, backgroundColor: COLORS[i], data: [] })),
      }, { indexAxis: "y", scales: { x: axis("memory", size), y: { stacked: true } } });
      const update = () => {
        const nCtx = plot.contexts[Number(slider.value)];
        out.textContent = `${nCtx.toLocaleString("en")} tokens`;
        slider.setAttribute("aria-valuetext", out.textContent);
        body.replaceChildren();
        plot.setups.forEach((one, s) => {
          const parts = nCtx === plot.n_ctx && one.exact ? one.exact : memory(one.linear, nCtx, plot.n_parallel);
          parts.forEach((value, i) => { chart.data.datasets[i].data[s] = value; });
          const row = body.insertRow();
          [one.title, ...parts.map(size), size(parts.reduce((a, b) => a + b, 0))].forEach((text, i) => {
            const cell = document.createElement(i ? "td" : "th");
            if (!i) cell.scope = "row";
            cell.textContent = text;
            if (i) { cell.className = "number"; cell.dataset.label = heads[i]; }
            row.append(cell);
          });
        });
        chart.update();
      };
      slider.addEventListener("input", update);
      update();
    },
    acceptance(plot, holder, canvas) {
      const names = Object.keys(plot.series);
      const most = Math.max(...names.map((name) => plot.series[name].length));
      draw(canvas, "line", {
        labels: Array.from({ length: most }, (_, i) => `position ${i + 1}`),
        datasets: names.map((label, i) => ({
          label, data: plot.series[label].map((x) => 100 * x), pointRadius: 5,
          borderColor: COLORS[i % COLORS.length], backgroundColor: COLORS[i % COLORS.length],
        })),
      }, { scales: { x: {}, y: { min: 0, max: 100, title: { display: true, text: "accepted, %" } } } });
    },
    speed(plot, holder, canvas) {
      draw(canvas, "bar", {
        labels: plot.bars.map((one) => one.name),
        datasets: [
          { label: "median", backgroundColor: COLORS[0], data: plot.bars.map((one) => one.median), grouped: false },
          { label: "spread", backgroundColor: COLORS[1], barThickness: 6, grouped: false, order: -1,
            data: plot.bars.map((one) => [one.low ?? one.median, one.high ?? one.median]) },
        ],
      }, { indexAxis: "y", scales: { x: { beginAtZero: true, title: { display: true, text: "tokens per second" } }, y: {} } });
    },
    curve(plot, holder, canvas) {
      const line = (label, points, color, more) => ({
        label, data: points.map((one) => ({ x: one.n_tokens, y: one.cost })), borderColor: color, backgroundColor: color, ...more,
      });
      const datasets = Object.entries(plot.series).map(([label, points], i) => line(label, points, COLORS[i % COLORS.length], { pointRadius: 5 }));
      datasets.push(line("a perfect draft pays below", plot.pays, COLORS[5], { pointRadius: 0, borderDash: [6, 4] }));
      draw(canvas, "line", { datasets }, { scales: {
        x: { type: "linear", title: { display: true, text: "tokens in the batch" } },
        y: { beginAtZero: true, title: { display: true, text: "cost, in tokens with MTP off" } },
      } });
    },
    bytes(plot, holder, canvas) {
      const datasets = [];
      plot.files.forEach((file, f) => file.ranges.forEach((range) => {
        const data = plot.files.map(() => null); // a 0 would get its least length, too
        data[f] = range.size_bytes;
        datasets.push({ label: range.what, data, backgroundColor: KINDS[range.what] || COLORS[0], minBarLength: 3 });
      }));
      const legend = { labels: { filter: (item, all) => datasets.findIndex((d) => d.label === item.text) === item.datasetIndex } };
      draw(canvas, "bar", { labels: plot.files.map((file) => file.name), datasets },
        { indexAxis: "y", plugins: { legend }, scales: { x: axis("bytes from the start of the file", size), y: { stacked: true } } });
    },
  };
  sections.forEach((plots, s) => plots.forEach((plot, p) => {
    const holder = document.getElementById(`plot-${s}-${p}`);
    drawers[plot.kind](plot, holder, holder.querySelector("canvas"));
  }));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    paint();
  });
  dark.addEventListener("change", paint);
  const status = document.getElementById("status");
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const text = button.previousElementSibling;
      try { await navigator.clipboard.writeText(text.textContent); status.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(text); status.textContent = "Selected: press Ctrl+C"; }
    });
  }
  paint();
})();
