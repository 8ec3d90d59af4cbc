// The last minutes, which only this page keeps, and the curves that show them. They survive a reload in the tab's
// session storage, under the name of the host: behind a proxy several agents share an origin.

const SECONDS = 300;
/** A sample every hour has a curve too. */
const SAMPLES = 60;

const STORED = `hm-agent history ${new URL(".", location.href).pathname}`;
const history = { host: "", interval: 0, times: [], series: {}, cores: [], layout: "" };

const windowSeconds = () => Math.max(SECONDS, SAMPLES * history.interval);

const forget = () => Object.assign(history, { times: [], series: {}, cores: [], layout: "" });

/** Adds a sample: values by name, and every core's percentage. A sample that came already is replaced. */
const remember = (time, values, cores) => {
  const { times, series } = history;
  // A clock that was set back: what is in the future now cannot be drawn.
  while (times.length && times.at(-1) >= time) drop(times.length - 1);
  const layout = cores.map(each => each.cpu).join();
  if (layout !== history.layout) Object.assign(history, { cores: times.map(() => ""), layout });
  times.push(time);
  history.cores.push(String.fromCharCode(...cores.map(each => 35 + Math.round(each.percent))));
  for (const [name, value] of Object.entries(values)) {
    series[name] ??= Array(times.length - 1).fill(null);
    series[name].push(known(value) ? Math.round(value * 10) / 10 : null);
  }
  for (const each of Object.values(series)) if (each.length < times.length) each.push(null);
  while (times[0] < time - windowSeconds()) drop(0);
  for (const name in series) if (series[name].every(value => value === null)) delete series[name];
};

const drop = at => {
  for (const each of [history.times, history.cores, ...Object.values(history.series)]) each.splice(at, 1);
};

const store = () => {
  try {
    sessionStorage.setItem(STORED, JSON.stringify(history));
  } catch {
    // Storage is full, or forbidden: then the curves begin anew.
  }
};

const restore = () => {
  try {
    const { host, interval, times, series, cores, layout } = JSON.parse(sessionStorage.getItem(STORED));
    const whole = [cores, ...Object.values(series)].every(each => each.length === times.length);
    if (whole) Object.assign(history, { host, interval, times, series, cores, layout });
  } catch {
    // Nothing, or nothing of ours.
  }
};

const WIDTH = 300;
const HEIGHT = 100;

/** Which samples a small picture shows: one of each of `count` stretches of the window, and the last. */
const sparse = count => {
  const stretch = time => Math.floor((time * count) / windowSeconds());
  const { times } = history;
  return [...times.keys()].filter(at => at === times.length - 1 || stretch(times[at]) !== stretch(times[at - 1] ?? -Infinity));
};

/** Points of a curve that ends at the right edge, in runs between which nobody looked. */
const runs = (valueAt, samples = [...history.times.keys()]) => {
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
    // A gap is longer than the steps around it: the interval may have been another one before.
    const around = [step(at - 1), step(at + 1)].filter(Number.isFinite);
    const gap = step(at) > 3 * Math.max(history.interval, Math.min(...around, windowSeconds()));
    if (!run || gap) found.push((run = []));
    run.push([WIDTH * (1 - (times.at(-1) - time) / windowSeconds()), value]);
  });
  return found;
};

/** `d` of the line and of the area between it and `base`; `toY` turns a value into a height. */
const outline = (points, base, toY) => {
  let line = "";
  let area = "";
  for (const run of points) {
    const path = run.map(([x, value]) => `${x.toFixed(1)} ${toY(value).toFixed(1)}`).join("L");
    line += `M${path}${run.length === 1 ? "h.6" : ""}`;
    area += `M${run[0][0].toFixed(1)} ${base}L${path}L${run.at(-1)[0].toFixed(1)} ${base}Z`;
  }
  return [line, area];
};

/** A curve's picture. Its label is its text for those who cannot see it. */
const curve = (mirrored = false) => {
  const paths = Array.from({ length: mirrored ? 4 : 2 }, (_, at) => make("path", { class: at % 2 ? "line" : "area" }));
  const viewBox = `0 0 ${WIDTH} ${HEIGHT}`;
  const node = make("svg", { class: "curve", viewBox, preserveAspectRatio: "none", role: "img" }, ...paths);
  if (mirrored) node.append(make("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2 }));
  return { node, paths };
};

const setPaths = (paths, [line, area]) => {
  attribute(paths[0], "d", area);
  attribute(paths[1], "d", line);
};

const valuesOf = name => history.series[name] ?? [];
const most = name => valuesOf(name).reduce((highest, value) => Math.max(highest, value ?? 0), 0);

/** Draws one series from 0 to `top`. */
const draw = ({ node, paths }, name, label, top, unit = "percent") => {
  const values = valuesOf(name);
  const toY = value => HEIGHT - 1 - (HEIGHT - 3) * Math.min(1, value / top);
  setPaths(paths, outline(runs(at => values[at] ?? -1), HEIGHT, toY));
  const seen = values.filter(known);
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  attribute(node, "aria-label", seen.length
    ? `${label}, last ${duration(windowSeconds())}: from ${number(low)} to ${number(high)} ${unit}`
    : `${label}: no values`);
};

/** Draws two series away from a line in the middle; returns the highest value of both. */
const drawMirrored = ({ node, paths }, up, down, label) => {
  const peak = Math.max(most(up), most(down));
  const top = Math.max(peak, 10_000); // a few stray packets are not a mountain
  const middle = HEIGHT / 2;
  [[up, -1], [down, 1]].forEach(([name, direction], at) => {
    const values = valuesOf(name);
    const toY = value => middle + direction * (middle - 2) * (value / top);
    setPaths(paths.slice(2 * at), outline(runs(at => values[at] ?? -1), middle, toY));
  });
  attribute(node, "aria-label", `${label}, last ${duration(windowSeconds())}: at most ${rate(peak)}`);
  return peak;
};
