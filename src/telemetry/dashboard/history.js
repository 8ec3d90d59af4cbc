// The samples of the last minutes and their curves. They survive a reload in the tab's session storage, keyed by path and host
// name: behind a proxy or a hub, several agents share an origin.

const WINDOW_SECONDS = 300;
/** The window holds at least this many samples, also hourly ones. */
const MIN_SAMPLES = 60;

const HISTORY_KEY = `hm-agent history ${location.pathname}`;
const history = { host: "", interval: 0, times: [], series: {}, cores: [], layout: "" };

const windowSeconds = () => Math.max(WINDOW_SECONDS, MIN_SAMPLES * history.interval);

const clearHistory = () => Object.assign(history, { times: [], series: {}, cores: [], layout: "" });

/** Adds a sample: values by series name, and each core's percentage. Replaces a sample with the same time. */
const recordSample = (time, values, cores) => {
  const { times, series } = history;
  // After a clock was set back, later samples cannot be drawn.
  while (times.length && times.at(-1) >= time) dropSample(times.length - 1);
  const layout = cores.map(each => each.cpu).join();
  if (layout !== history.layout) Object.assign(history, { cores: times.map(() => ""), layout });
  times.push(time);
  history.cores.push(String.fromCharCode(...cores.map(each => 35 + Math.round(each.percent))));
  for (const [name, value] of Object.entries(values)) {
    series[name] ??= Array(times.length - 1).fill(null);
    series[name].push(isKnown(value) ? Math.round(value * 10) / 10 : null);
  }
  for (const each of Object.values(series)) if (each.length < times.length) each.push(null);
  while (times[0] < time - windowSeconds()) dropSample(0);
  for (const name in series) if (series[name].every(value => value === null)) delete series[name];
};

const dropSample = at => {
  for (const each of [history.times, history.cores, ...Object.values(history.series)]) each.splice(at, 1);
};

const saveHistory = () => {
  try {
    sessionStorage.setItem(HISTORY_KEY, JSON.stringify(history));
  } catch {
    // Storage is full or disabled: the curves are empty after a reload.
  }
};

const restoreHistory = () => {
  try {
    const { host, interval, times, series, cores, layout } = JSON.parse(sessionStorage.getItem(HISTORY_KEY));
    const whole = [cores, ...Object.values(series)].every(each => each.length === times.length);
    if (whole) Object.assign(history, { host, interval, times, series, cores, layout });
  } catch {
    // Nothing is stored, or it has another format.
  }
};

const WIDTH = 300;
const HEIGHT = 100;

/** Indexes of the samples that a small curve shows: one from each of `count` parts of the window, and the last. */
const sparseIndexes = count => {
  const stretch = time => Math.floor((time * count) / windowSeconds());
  const { times } = history;
  return [...times.keys()].filter(at => at === times.length - 1 || stretch(times[at]) !== stretch(times[at - 1] ?? -Infinity));
};

/** Points of a curve that ends at the right edge, as segments: gaps without samples separate them. */
const segments = (valueAt, samples = [...history.times.keys()]) => {
  const times = samples.map(at => history.times[at]);
  const step = at => times[at] - times[at - 1] || Infinity;
  const found = [];
  let run = null;
  times.forEach((time, at) => {
    const value = valueAt(samples[at]);
    if (!(value >= 0)) {
      run = null;
      return;
    }
    // A gap is longer than the steps around it: the interval may have changed.
    const around = [step(at - 1), step(at + 1)].filter(Number.isFinite);
    const gap = step(at) > 3 * Math.max(history.interval, Math.min(...around, windowSeconds()));
    if (!run || gap) found.push((run = []));
    run.push([WIDTH * (1 - (times.at(-1) - time) / windowSeconds()), value]);
  });
  return found;
};

/** Attributes `d` of the line and of the area between it and `base`; `toY` maps a value to a coordinate. */
const curvePaths = (points, base, toY) => {
  let line = "";
  let area = "";
  for (const run of points) {
    const path = run.map(([x, value]) => `${x.toFixed(1)} ${toY(value).toFixed(1)}`).join("L");
    line += `M${path}${run.length === 1 ? "h.6" : ""}`;
    area += `M${run[0][0].toFixed(1)} ${base}L${path}L${run.at(-1)[0].toFixed(1)} ${base}Z`;
  }
  return [line, area];
};

/** Creates the SVG of a curve. Its aria-label describes it to screen readers. */
const createCurve = (mirrored = false) => {
  const paths = Array.from({ length: mirrored ? 4 : 2 }, (_, at) => make("path", { class: at % 2 ? "line" : "area" }));
  const viewBox = `0 0 ${WIDTH} ${HEIGHT}`;
  const node = make("svg", { class: "curve", viewBox, preserveAspectRatio: "none", role: "img" }, ...paths);
  if (mirrored) node.append(make("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2 }));
  return { node, paths };
};

const setPaths = (paths, [line, area]) => {
  setAttr(paths[0], "d", area);
  setAttr(paths[1], "d", line);
};

const valuesOf = name => history.series[name] ?? [];
const peakOf = name => valuesOf(name).reduce((highest, value) => Math.max(highest, value ?? 0), 0);

/** Draws one series from 0 to `top`. */
const drawCurve = ({ node, paths }, name, label, top, unit = "percent") => {
  const values = valuesOf(name);
  const toY = value => HEIGHT - 1 - (HEIGHT - 3) * Math.min(1, value / top);
  setPaths(paths, curvePaths(segments(at => values[at] ?? -1), HEIGHT, toY));
  const seen = values.filter(isKnown);
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  setAttr(node, "aria-label", seen.length
    ? `${label}, last ${duration(windowSeconds())}: ${number(low)} to ${number(high)} ${unit}`
    : `${label}: no values`);
};

/** Draws one series above and one below a middle line; returns the highest value of both. */
const drawMirrored = ({ node, paths }, up, down, label) => {
  const peak = Math.max(peakOf(up), peakOf(down));
  const top = Math.max(peak, 10_000); // so that a few packets do not fill the height
  const middle = HEIGHT / 2;
  [[up, -1], [down, 1]].forEach(([name, direction], at) => {
    const values = valuesOf(name);
    const toY = value => middle + direction * (middle - 2) * (value / top);
    setPaths(paths.slice(2 * at), curvePaths(segments(at => values[at] ?? -1), middle, toY));
  });
  setAttr(node, "aria-label", `${label}, last ${duration(windowSeconds())}: at most ${rate(peak)}`);
  return peak;
};
