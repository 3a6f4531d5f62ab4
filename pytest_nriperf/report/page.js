'use strict';
// What the page does once it is there: plots come alive, the dots refine as one zooms in, light and dark.
(() => {
  const MOST_DOTS = 50000, COLUMNS = 500, EXTREME = 5000, BANDS = 8, LAYERS = 4;
  const SYMBOLS = ['circle', 'square', 'diamond', 'cross', 'triangle-up', 'x', 'triangle-down', 'star'];
  const SHAPES = ['M8 3a5 5 0 1 0 .01 0', 'M3 3h10v10H3z', 'M8 2l6 6-6 6-6-6z', 'M6 2h4v4h4v4h-4v4H6v-4H2V6h4z', 'M8 2l6 11H2z',
    'M3 5l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z', 'M8 14L2 3h12z', 'M8 1l2 5h5l-4 3 2 6-5-4-5 4 2-6-4-3h5z'];
  const root = document.documentElement;
  const store = JSON.parse(document.getElementById('nriperf-data').textContent);
  const byId = (id) => document.getElementById(id);

  // ------------------------------------------------------------------ colours
  const colour = (name) => getComputedStyle(root).getPropertyValue('--' + name).trim();
  const themed = (value) => {
    if (typeof value === 'string') return value[0] === '@' ? colour(value.slice(1)) : value;
    if (Array.isArray(value)) return typeof value[0] === 'number' ? value : value.map(themed);
    if (value && typeof value === 'object') {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, themed(each)]));
    }
    return value;
  };
  const config = { responsive: true, displaylogo: false, plotGlPixelRatio: Math.max(1, devicePixelRatio || 1), plotlyServerURL: '', // nothing of the page may leave this machine: no button that uploads it
    modeBarButtonsToRemove: ['select2d', 'lasso2d', 'sendChartToCloud'],
    modeBarButtonsToAdd: [{ name: 'Save as SVG', icon: Plotly.Icons.disk,
      click: (div) => Plotly.downloadImage(div, { format: 'svg', filename: div.id || 'plot', width: 1100, height: 520 }) }] };

  const modebar = () => ({ bgcolor: 'rgba(0,0,0,0)', color: colour('quiet'), activecolor: colour('text') });

  // ------------------------------------------------------------------ figures other than the dots
  const drawn = new Set();
  const draw = (div) => {
    const figure = themed(store.figures[div.dataset.figure]);
    figure.layout.modebar = modebar();
    if (div.clientWidth < 700) figure.layout.legend = { orientation: 'h', x: 0, y: -0.3 };
    Plotly.react(div, figure.data, figure.layout, config);
    drawn.add(div);
  };
  const watcher = new IntersectionObserver((seen) => seen.forEach((entry) => {
    if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
  }), { rootMargin: '300px' });

  // ------------------------------------------------------------------ the dots
  const decode = (text, Kind) => {
    const binary = atob(text), bytes = new Uint8Array(binary.length);
    for (let index = 0; index < binary.length; index++) bytes[index] = binary.charCodeAt(index);
    return new Kind(bytes.buffer);
  };
  const dots = (() => {
    const raw = store.dots, columns = {};
    for (const name of ['part', 'run', 'replica', 'request', 'count']) columns[name] = decode(raw[name], Int32Array);
    for (const name of ['first_s', 'origin_s']) columns[name] = decode(raw[name], Float64Array);
    const gap = decode(raw.gap_s, Float32Array), total = gap.length;
    const owner = new Int32Array(total), time = new Float64Array(total), chance = new Uint32Array(total);
    let dot = 0;
    for (let request = 0; request < columns.count.length; request++) {
      let now = columns.first_s[request];
      for (let step = columns.count[request]; step > 0; step--, dot++) {
        now += gap[dot];
        owner[dot] = request; time[dot] = now;
        let hash = Math.imul(dot + 1, 2654435761);
        hash = Math.imul(hash ^ (hash >>> 15), 2246822519);
        chance[dot] = (hash ^ (hash >>> 13)) >>> 0;
      }
    }
    return { ...columns, gap, owner, time, chance, total };
  })();

  const state = { part: -1, by: store.dots.by, clock: store.dots.clock, log: true, off: new Set(), range: null, unit: null };

  // What the colour goes by: a column of the requests, or the value of an axis that their measurement has.
  const columns = {};
  const columnOf = () => {
    const axis = store.dots.axes[state.by];
    if (!axis) return dots[state.by];
    columns[state.by] ||= dots.part.map((part) => axis.of[part]);
    return columns[state.by];
  };

  // Groups of the legend: at most 16 by themselves, more in bands of neighbours.
  const groupsOf = () => {
    const column = columnOf(), axis = store.dots.axes[state.by], seen = new Set();
    for (let request = 0; request < column.length; request++) {
      if (state.part < 0 || dots.part[request] === state.part) seen.add(column[request]);
    }
    const keys = [...seen].sort((a, b) => a - b), place = new Map();
    const word = (key) => (axis ? `${state.by}=${axis.values[key]}` : state.by === 'part' ? store.dots.names[key] : `${state.by} ${key}`);
    if (keys.length <= 16) {
      keys.forEach((key, index) => place.set(key, index));
      return { place, names: keys.map(word) };
    }
    const names = Array.from({ length: BANDS }, () => []);
    keys.forEach((key, index) => {
      const band = Math.floor(index * BANDS / keys.length);
      place.set(key, band); names[band].push(key);
    });
    return { place, names: names.map((band) => band.length > 1 ? `${word(band[0])} ... ${word(band[band.length - 1])}` : word(band[0])) };
  };

  const xOf = (dot) => dots.time[dot] - (state.clock === 'run' ? dots.origin_s[dots.owner[dot]] : 0);

  // Which dots to draw: all in view when they are few enough; else of each column of the view the lowest and the
  // highest, then the gaps farthest from the median, then a random part of the rest, always the same.
  const choose = (groups) => {
    const [low, high, down, up] = state.range || [-Infinity, Infinity, -Infinity, Infinity];
    const column = columnOf(), inView = new Int32Array(dots.total);
    let count = 0, least = Infinity, most = -Infinity;
    for (let dot = 0; dot < dots.total; dot++) {
      const request = dots.owner[dot];
      if (state.part >= 0 && dots.part[request] !== state.part) continue;
      if (state.off.size && state.off.has(groups.place.get(column[request]))) continue;
      const x = xOf(dot), gap = dots.gap[dot];
      if (x < low || x > high || gap < down || gap > up) continue;
      inView[count++] = dot;
      if (x < least) least = x;
      if (x > most) most = x;
    }
    const view = inView.subarray(0, count);
    if (count <= MOST_DOTS) return { shown: Int32Array.from(view), count };
    const keep = new Uint8Array(count), minimum = new Int32Array(COLUMNS).fill(-1), maximum = new Int32Array(COLUMNS).fill(-1);
    const sample = Float64Array.from({ length: 2001 }, (_, index) => Math.log(dots.gap[view[Math.floor(index * (count - 1) / 2000)]] || 1e-9)).sort();
    const median = sample[1000], far = new Float32Array(count);
    for (let index = 0; index < count; index++) {
      const gap = dots.gap[view[index]], bin = Math.min(COLUMNS - 1, Math.floor((xOf(view[index]) - least) / (most - least || 1) * COLUMNS));
      if (minimum[bin] < 0 || gap < dots.gap[view[minimum[bin]]]) minimum[bin] = index;
      if (maximum[bin] < 0 || gap > dots.gap[view[maximum[bin]]]) maximum[bin] = index;
      far[index] = Math.abs(Math.log(gap || 1e-9) - median);
    }
    const limit = nth(far, count - EXTREME);
    let kept = 0;
    for (let index = 0; index < count && kept < EXTREME; index++) if (far[index] > limit) { keep[index] = 1; kept++; }
    for (const edge of [minimum, maximum]) for (const index of edge) if (index >= 0 && !keep[index]) { keep[index] = 1; kept++; }
    const share = (MOST_DOTS - kept) / (count - kept) * 4294967296 * 0.995;
    const shown = [];
    for (let index = 0; index < count && shown.length < MOST_DOTS; index++) {
      if (keep[index] || dots.chance[view[index]] < share) shown.push(view[index]);
    }
    return { shown: Int32Array.from(shown), count };
  };

  // The value of that rank, from a histogram: near enough for a threshold.
  const nth = (values, rank) => {
    let top = 0;
    for (let index = 0; index < values.length; index++) if (values[index] > top) top = values[index];
    const bins = new Int32Array(4097), step = 4096 / (top || 1);
    for (let index = 0; index < values.length; index++) bins[Math.floor(values[index] * step)]++;
    for (let bin = 0, below = 0; bin < bins.length; bin++) { below += bins[bin]; if (below >= rank) return (bin + 1) / step; }
    return top;
  };

  const stage = byId('stage'), live = byId('dots-plot'), tip = byId('tip');
  let shownDots = [], groups = null;

  // Layers of every group in turn, each dot in a layer by chance: no group lies on top of all others.
  const traces = () => {
    const { shown, count } = choose(groups), column = columnOf(), sets = [];
    const layers = groups.names.length > 4 ? LAYERS / 2 : groups.names.length > 1 ? LAYERS : 1;
    for (let layer = 0; layer < layers; layer++) for (let group = 0; group < groups.names.length; group++) sets.push([]);
    for (const dot of shown) {
      const group = groups.place.get(column[dots.owner[dot]]);
      sets[(layers === 1 ? 0 : dots.chance[dot] & (layers - 1)) * groups.names.length + group].push(dot);
    }
    shownDots = sets;
    const size = shown.length < 3000 ? 7 : shown.length < 15000 ? 5 : 3.5;
    byId('drawn').textContent = `${shown.length.toLocaleString('en')} of ${count.toLocaleString('en')} dots in view are drawn`;
    return sets.map((set, index) => {
      const group = index % groups.names.length, x = new Float64Array(set.length), y = new Float64Array(set.length);
      set.forEach((dot, place) => { x[place] = xOf(dot); y[place] = dots.gap[dot] / state.unit.scale; });
      return { type: 'scattergl', mode: 'markers', x, y, hoverinfo: 'none', showlegend: false,
        marker: { size, opacity: 0.7, color: colour('series' + group % 8), symbol: SYMBOLS[(group + (group >> 3)) % 8] } };
    });
  };

  const layout = () => {
    const axis = { gridcolor: colour('grid'), zerolinecolor: colour('grid') };
    const clock = state.clock === 'run' ? 'seconds since the start of the run' : 'seconds since the session\'s first request';
    const made = { font: { color: colour('text'), size: 13, family: 'system-ui, sans-serif' }, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      modebar: modebar(), margin: { l: 70, r: 15, t: 25, b: 50 }, hovermode: 'closest', dragmode: 'zoom', hoverdistance: 12,
      xaxis: { ...axis, title: { text: clock } },
      yaxis: { ...axis, title: { text: `gap between token events, ${state.unit.name}` }, type: state.log ? 'log' : 'linear' } };
    if (state.range) {
      const [low, high, down, up] = state.range;
      if (isFinite(low)) made.xaxis.range = [low, high];
      if (isFinite(down)) made.yaxis.range = (state.log ? [Math.log10(down / state.unit.scale), Math.log10(up / state.unit.scale)] : [down / state.unit.scale, up / state.unit.scale]);
    }
    return made;
  };

  const refresh = () => Plotly.react(live, traces(), layout(), config).then(() => {
    live.dataset.drawings = String(Number(live.dataset.drawings || 0) + 1);
    setTimeout(followStrips, 0);
  });

  const regroup = () => { groups = groupsOf(); state.off.clear(); legend(); };

  const legend = () => {
    const box = byId('legend');
    box.replaceChildren(...groups.names.map((name, group) => {
      const button = document.createElement('button'), shape = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
      const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
      shape.setAttribute('width', 16); shape.setAttribute('height', 16); shape.setAttribute('aria-hidden', 'true');
      path.setAttribute('d', SHAPES[(group + (group >> 3)) % 8]); path.setAttribute('class', 'fill' + group % 8);
      shape.append(path);
      button.type = 'button'; button.setAttribute('aria-pressed', 'true'); button.title = 'show or hide';
      button.append(shape, name);
      button.addEventListener('click', () => {
        const on = state.off.has(group);
        if (on) state.off.delete(group); else state.off.add(group);
        button.setAttribute('aria-pressed', String(on));
        refresh();
      });
      return button;
    }));
  };

  const ranges = () => {
    const x = live._fullLayout.xaxis.range, y = live._fullLayout.yaxis.range, scale = state.unit.scale;
    const up = (value) => (state.log ? 10 ** value : value) * scale;
    return [x[0], x[1], up(y[0]), up(y[1])];
  };
  const zoomed = (event) => {
    if (event['xaxis.autorange'] || event['yaxis.autorange']) state.range = null;
    else if (Object.keys(event).some((key) => key.includes('axis.range'))) state.range = ranges();
    else return;
    refresh();
  };
  const move = (shift, factor) => {
    const [low, high, down, up] = ranges(), middle = (low + high) / 2 + shift * (high - low), half = (high - low) / 2 * factor;
    state.range = [middle - half, middle + half, down, up];
    refresh();
  };
  const actions = {
    'zoom-in': () => move(0, 0.5), 'zoom-out': () => move(0, 2), left: () => move(-0.25, 1), right: () => move(0.25, 1),
    reset: () => { state.range = null; refresh(); },
    scale: (button) => { state.log = !state.log; button.textContent = state.log ? 'linear scale' : 'log scale'; state.range = null; refresh(); },
  };
  const keys = { '+': 'zoom-in', '=': 'zoom-in', '-': 'zoom-out', ArrowLeft: 'left', ArrowRight: 'right', 0: 'reset' };

  const hover = (event) => {
    const point = event.points[0], dot = shownDots[point.curveNumber][point.pointNumber], request = dots.owner[dot];
    tip.textContent = `${(dots.gap[dot] / state.unit.scale).toPrecision(4)} ${state.unit.name} at ${xOf(dot).toFixed(4)} s\n` +
      `${store.dots.names[dots.part[request]]}\nrun ${dots.run[request]}, replica ${dots.replica[request]}, request ${dots.request[request]}`;
    const box = stage.getBoundingClientRect(), mouse = event.event;
    tip.hidden = false;
    tip.style.left = Math.min(mouse.clientX - box.left + 14, box.width - tip.offsetWidth - 4) + 'px';
    tip.style.top = mouse.clientY - box.top + 14 + 'px';
  };

  // ------------------------------------------------------------------ counter strips beneath the dots
  const strips = [...document.querySelectorAll('.strip')];
  let drawnStrips = '';
  const drawStrips = () => strips.forEach((div) => {
    const mine = store.strips.filter((strip) => strip.key === div.dataset.strip && (state.part < 0 || strip.part === state.part));
    const scopes = [...new Set(mine.map((strip) => strip.scope))];
    const lines = scopes.slice(0, 16).map((scope, index) => {
      const own = mine.filter((strip) => strip.scope === scope), shift = (strip) => (state.clock === 'run' ? strip.origin : 0);
      return { type: 'scatter', mode: 'lines', name: scope.replace(/&/g, '&amp;').replace(/</g, '&lt;'), hovertemplate: '%{y:.4g}',
        x: own.flatMap((strip) => [...strip.time.map((time) => time - shift(strip)), null]), y: own.flatMap((strip) => [...strip.value, null]),
        line: { width: 2, color: colour('series' + index % 8), dash: ['solid', 'dash', 'dot', 'dashdot'][index % 4] } };
    });
    const made = layout();
    Plotly.react(div, lines, { ...made, dragmode: 'pan', height: 190, showlegend: true, legend: { orientation: 'h', y: 1.18, x: 0 }, margin: { l: 70, r: 15, t: 30, b: 45 },
      xaxis: { ...made.xaxis, range: live._fullLayout.xaxis.range.slice() },
      yaxis: { gridcolor: colour('grid'), rangemode: 'tozero', title: { text: div.dataset.unit } } }, { ...config, displayModeBar: false });
  });
  const followStrips = () => {
    const now = `${state.part} ${state.clock} ${root.dataset.theme}`, range = live._fullLayout.xaxis.range.slice();
    if (drawnStrips !== now) { drawnStrips = now; drawStrips(); } else strips.forEach((div) => Plotly.relayout(div, { 'xaxis.range': range }));
  };

  // ------------------------------------------------------------------ controls, themes, tables
  const wire = () => {
    byId('by').value = state.by; byId('clock').value = state.clock;
    byId('by').addEventListener('change', (event) => { state.by = event.target.value; regroup(); refresh(); });
    byId('clock').addEventListener('change', (event) => { state.clock = event.target.value; state.range = null; refresh(); });
    byId('part').addEventListener('change', (event) => {
      state.part = Number(event.target.value); state.range = null;
      if (state.part >= 0 && state.by === 'part') { state.by = 'replica'; byId('by').value = 'replica'; }
      regroup(); refresh();
    });
    document.querySelectorAll('[data-action]').forEach((button) => button.addEventListener('click', () => actions[button.dataset.action](button)));
    stage.addEventListener('keydown', (event) => {
      if (event.target === live && keys[event.key] && !event.ctrlKey && !event.metaKey) { event.preventDefault(); actions[keys[event.key]](); }
    });
    live.on('plotly_relayout', zoomed);
    live.on('plotly_hover', hover);
    live.on('plotly_unhover', () => { tip.hidden = true; });
  };
  const repaint = () => {
    if (stage && stage.classList.contains('ready')) refresh();
    drawn.forEach(draw);
  };
  byId('theme').addEventListener('click', () => {
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
    repaint();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
  let before = null;
  addEventListener('beforeprint', () => {
    before = root.dataset.theme || '';
    root.dataset.theme = 'light';
    document.querySelectorAll('.plot').forEach(draw);
  });
  addEventListener('afterprint', () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; repaint(); });
  document.querySelectorAll('[data-table]').forEach((button) => button.addEventListener('click', () => {
    const table = store.tables[button.dataset.table], link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([table[button.dataset.kind]], { type: 'text/plain' }));
    link.download = `${button.dataset.table}.${button.dataset.kind === 'csv' ? 'csv' : 'md'}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }));

  const begin = () => {
    if (stage && dots.total) {
      state.unit = store.dots.unit;
      regroup();
      stage.classList.add('ready');
      Plotly.newPlot(live, traces(), layout(), config).then(() => {
        wire();
        live.dataset.drawings = '1';
        root.dataset.live = String(Math.round(performance.now()));
        setTimeout(followStrips, 0);
      });
    }
    document.querySelectorAll('.plot').forEach((div) => watcher.observe(div));
  };
  requestAnimationFrame(() => setTimeout(begin, 0));
})();
