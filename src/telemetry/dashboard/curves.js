// Curves as SVG, with a scale and a time axis. The right edge is the time of the last sample.

const WIDTH = 1000;
const HEIGHT = 100;

/** Seconds between the labels of a time axis. */
const WIDE_TICKS = { "1h": 900, "24h": 14_400 };
const NARROW_TICKS = { "1h": 1800, "24h": 28_800 };

/** Points of a curve as segments, which gaps without samples separate. Of the samples in one of `columns` the lowest and highest. */
const segments = (store, values, columns) => {
  const { times, seconds } = store;
  const last = times.at(-1);
  const gapOf = at => times[at] - times[at - 1] || Infinity;
  const found = [];
  let run = null;
  let cell = { column: -1, points: [] };
  const flush = () => {
    if (!cell.points.length) return;
    const byValue = [...cell.points].sort(([, one], [, two]) => one - two);
    const ends = byValue.length > 2 ? [byValue[0], byValue.at(-1)].sort(([one], [two]) => one - two) : cell.points;
    run.push(...ends);
    cell = { column: -1, points: [] };
  };
  times.forEach((time, at) => {
    const value = values[at];
    if (!isKnown(value)) {
      flush();
      run = null;
      return;
    }
    // A gap is longer than the steps around it: the interval may have changed.
    const around = [gapOf(at - 1), gapOf(at + 1)].filter(Number.isFinite);
    const isGap = gapOf(at) > 3 * Math.max(history.interval, Math.min(...around, seconds));
    if (!run || isGap) {
      flush();
      found.push((run = []));
    }
    const x = 1 - (last - time) / seconds;
    const column = Math.floor(x * columns);
    if (column !== cell.column) flush();
    cell.column = column;
    cell.points.push([WIDTH * x, value]);
  });
  flush();
  return found;
};

/** Attributes `d` of the line and of the area between it and `base`; `toY` maps a value to a coordinate. */
const curvePaths = (runs, base, toY) => {
  let line = "";
  let area = "";
  for (const run of runs) {
    const path = run.map(([x, value]) => `${x.toFixed(1)} ${toY(value).toFixed(1)}`).join("L");
    line += `M${path}${run.length === 1 ? "h2" : ""}`;
    area += `M${run[0][0].toFixed(1)} ${base}L${path}L${run.at(-1)[0].toFixed(1)} ${base}Z`;
  }
  return [line, area];
};

/** Creates the SVG of a curve. Its aria-label describes it to screen readers. */
const createCurve = (mirrored = false) => {
  const paths = Array.from({ length: mirrored ? 4 : 2 }, (_, at) => make("path", { class: at % 2 ? "line" : "area" }));
  const viewBox = `0 0 ${WIDTH} ${HEIGHT}`;
  const grid = make("path", { class: "grid" });
  const node = make("svg", { class: "curve", viewBox, preserveAspectRatio: "none", role: "img" }, grid, ...paths);
  if (mirrored) node.append(make("line", { class: "zero", x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2 }));
  return { node, paths, grid };
};

const setPaths = (paths, [line, area]) => {
  setAttr(paths[0], "d", area);
  setAttr(paths[1], "d", line);
};

/** What a curve shows, in words. */
const describeCurve = (label, store, values, format) => {
  const seen = values.filter(isKnown);
  const span = store.seconds === 3600 ? "last hour" : `last ${duration(store.seconds)}`;
  if (!seen.length) return `${label}: no values`;
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  const now = isKnown(values.at(-1)) ? `now ${format(values.at(-1))}` : "no value now";
  return `${label}, ${span}: ${format(low)} to ${format(high)}, ${now}`;
};

/** Draws values from 0 to `top`. */
const drawCurve = ({ node, paths }, store, values, { label, top = 100, format = percent, columns = 300 }) => {
  const toY = value => HEIGHT - 1 - (HEIGHT - 3) * Math.min(1, value / top);
  setPaths(paths, curvePaths(segments(store, values, columns), HEIGHT, toY));
  if (label) setAttr(node, "aria-label", describeCurve(label, store, values, format));
};

/** Draws one series above and one below a middle line, with the same scale; returns the end of the scale. */
const drawMirrored = ({ node, paths }, store, up, down, label) => {
  const peak = Math.max(peakOf(store, up), peakOf(store, down));
  const top = roundUp(Math.max(peak, 10_000)); // so that a few packets do not fill the height
  const middle = HEIGHT / 2;
  [[up, -1], [down, 1]].forEach(([name, direction], at) => {
    const toY = value => middle + direction * (middle - 2) * (value / top);
    setPaths(paths.slice(2 * at), curvePaths(segments(store, valuesOf(store, name), 300), middle, toY));
  });
  setAttr(node, "aria-label", `${label}, last ${duration(store.seconds)}: at most ${rate(peak)}`);
  return top;
};

/** The next of 1, 2, 5, 10, 20, … */
const roundUp = value => {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 2, 5, 10].find(each => each * unit >= value);
};

/** Times of the labels of a time axis: full multiples of `every` in local time. */
const tickTimes = ({ times, seconds }, every) => {
  const end = times.at(-1) ?? 0;
  const offset = new Date(end * 1000).getTimezoneOffset() * 60;
  const first = Math.ceil((end - seconds - offset) / every) * every + offset;
  return Array.from({ length: Math.max(0, Math.floor((end - first) / every) + 1) }, (_, at) => first + at * every);
};

const timeOfDay = unix => new Date(unix * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const shareOfWindow = ({ times, seconds }, time) => 1 - (times.at(-1) - time) / seconds;

/** Creates a time axis. Screen readers read the label of the curve instead. */
const createAxis = () => make("div", { class: "axis", "aria-hidden": "true" });

const setAxis = (axis, store, every) => {
  const ticks = tickTimes(store, every).map(time => ({ time, at: shareOfWindow(store, time) }));
  reconcile(axis, ticks.filter(({ at }) => at > 0.02 && at < 0.98), ({ time }) => String(time), ({ time }) => ({ node: make("span", {}, timeOfDay(time)) }),
    ({ node }, { at }) => { node.style.left = `${(100 * at).toFixed(2)}%`; });
};

/** Creates a curve with a scale of `marks.length` labels from the top to the bottom, and with a time axis. */
const createPlot = (marks, { mirrored = false, hasAxis = true } = {}) => {
  const picture = createCurve(mirrored);
  const labels = marks.map(mark => make("span", {}, mark));
  const scale = make("div", { class: "scale", "aria-hidden": "true" }, ...labels);
  const axis = createAxis();
  const node = make("div", { class: "plot" }, scale, picture.node, ...(hasAxis ? [axis] : []));
  return { ...picture, node, picture, labels, axis };
};

/** Draws the lines of the grid and the time axis of a plot. */
const setPlotAxis = ({ grid, axis, labels }, store, ticks) => {
  const every = ticks[history.range];
  const across = labels.map((_, at) => `M0 ${(HEIGHT * at) / (labels.length - 1)}h${WIDTH}`);
  const down = tickTimes(store, every).map(time => `M${(WIDTH * shareOfWindow(store, time)).toFixed(1)} 0v${HEIGHT}`);
  setAttr(grid, "d", [...across, ...down].join(""));
  setAxis(axis, store, every);
};
