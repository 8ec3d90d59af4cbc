// The samples behind the curves. The agent records an hour and a day of the most important series, see `GET /history`; updates
// continue them. Cores and devices are not recorded: their curves begin when the page is opened.

const RECENT_SECONDS = 300;
/** The recent samples are at least this many, also hourly ones. */
const MIN_SAMPLES = 60;

/** Samples of a window. Of each `step` in seconds it holds one, the last. `series` has values or null by name, one for each time. */
const createStore = (seconds, step = 0) => ({ seconds, step, times: [], series: {} });

const history = { host: "", interval: 0, range: "1h", cores: "", stores: {} };

const clearHistory = () => {
  history.stores = { recent: createStore(RECENT_SECONDS), "1h": createStore(3600), "24h": createStore(86_400, 60) };
};
clearHistory();

/** The store of the range that the operator has selected. */
const shownStore = () => history.stores[history.range];

const seriesName = (name, gpu) => (isKnown(gpu) ? `${name} ${gpu}` : name);

const dropSample = ({ times, series }, at) => {
  for (const each of [times, ...Object.values(series)]) each.splice(at, 1);
};

/** Adds a sample: values by name of the series. Replaces a sample with the same time. */
const addSample = (store, time, values) => {
  const { times, series, step, seconds } = store;
  // After a clock was set back, later samples cannot be drawn.
  while (times.length && times.at(-1) >= time) dropSample(store, times.length - 1);
  if (times.length > 1 && time - times.at(-2) < step) dropSample(store, times.length - 1);
  times.push(time);
  for (const [name, value] of Object.entries(values)) {
    series[name] ??= Array(times.length - 1).fill(null);
    series[name].push(isKnown(value) ? Math.round(value * 10) / 10 : null);
  }
  for (const each of Object.values(series)) if (each.length < times.length) each.push(null);
  const old = times.findIndex(each => each >= time - seconds);
  if (old > 0) for (const each of [times, ...Object.values(series)]) each.splice(0, old);
  for (const name in series) if (!series[name].some(isKnown)) delete series[name];
};

/** Fills a range with a response of `/history`. Older and later samples of updates are kept: an agent may have lost its history. */
const fillStore = (range, { start, step, series }) => {
  const before = history.stores[range];
  const store = createStore(before.seconds, step);
  const recorded = series.map(({ name, gpu, values }) => [seriesName(name, gpu), values]);
  const add = (times, all, isWanted) => times.forEach((time, at) => {
    if (isWanted(time)) addSample(store, time, Object.fromEntries(all.map(([name, values]) => [name, values[at]])));
  });
  const count = Math.max(0, ...series.map(({ values }) => values.length));
  const times = Array.from({ length: count }, (_, at) => start + at * step);
  const first = times.find((_, at) => series.some(({ values }) => isKnown(values[at]))) ?? Infinity;
  const updates = Object.entries(before.series);
  add(before.times, updates, time => time < first);
  add(times, recorded, time => time >= first);
  add(before.times, updates, time => first < Infinity && time > times.at(-1));
  history.stores[range] = store;
};

/** Adds an update to all ranges. */
const recordUpdate = update => {
  const { recent, ...ranges } = history.stores;
  recent.seconds = Math.max(RECENT_SECONDS, MIN_SAMPLES * history.interval);
  const values = {
    cpu_percent: update.cpu_percent,
    memory_percent: update.ram_percent,
    load1: update.load?.one,
    disk_read_bytes_per_second: total(pick(update.disks, "read_bytes_per_second")),
    disk_write_bytes_per_second: total(pick(update.disks, "write_bytes_per_second")),
  };
  const wires = update.networks.filter(each => !isLoopback(each));
  for (const way of ["receive", "transmit"]) {
    values[`network_${way}_bytes_per_second`] = total(wires.map(each => each[way]?.bytes_per_second).filter(isKnown));
  }
  for (const gpu of update.gpus) {
    values[`gpu_utilization_percent ${gpu.index}`] = gpu.utilization_percent;
    values[`gpu_memory_used_percent ${gpu.index}`] = memoryPercent(gpu);
    values[`gpu_temperature_celsius ${gpu.index}`] = gpu.temperature_celsius;
    values[`gpu_power_watts ${gpu.index}`] = gpu.power_watts;
    values[`gpu_clock_mhz ${gpu.index}`] = gpu.sm_clock_mhz;
  }
  for (const store of Object.values(ranges)) addSample(store, update.timestamp, values);
  const devices = {};
  for (const core of update.cpus ?? []) devices[`core ${core.cpu}`] = core.percent;
  for (const { device, receive, transmit } of update.networks) {
    devices[`net ${device} receive`] = receive?.bytes_per_second;
    devices[`net ${device} transmit`] = transmit?.bytes_per_second;
  }
  for (const disk of update.disks) {
    devices[`disk ${disk.device} read`] = disk.read_bytes_per_second;
    devices[`disk ${disk.device} write`] = disk.write_bytes_per_second;
  }
  addSample(recent, update.timestamp, devices);
};

const valuesOf = (store, name) => store.series[name] ?? [];
const peakOf = (store, name) => valuesOf(store, name).reduce((highest, value) => Math.max(highest, value ?? 0), 0);

/** At each time the mean of the GPUs that have a value. */
const meanOfGpus = (store, name) => {
  const all = Object.keys(store.series).filter(each => each.startsWith(`${name} `)).map(each => store.series[each]);
  return all.length ? store.times.map((_, at) => mean(all.map(values => values[at]).filter(isKnown))) : [];
};
