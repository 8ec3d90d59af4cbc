// Commands on the node and their results, over the REST API. Its errors have status 200 and `success: false`.

const SHOWN_COMMANDS = 20;
const ACTIVE_MS = 2000;
const IDLE_MS = 15_000;
const COMMANDS_PATH = `api/v1/nodes/${encodeURIComponent(NODE_ID)}/commands`;
const COMMAND_MARKS = { success: "ok", failed: "critical", timeout: "warning", running: "unknown", pending: "unknown" };

const commands = { operator: "", timer: 0, list: [] };

/** Data of a response of the REST API. */
const restData = async response => {
  const { success, data, message, error_code: code } = await bodyOf(response);
  if (!success) throw new RequestError(response.status, [code, message].filter(Boolean).join(": "));
  return data;
};

/** Shows the section if the operator may see commands. */
const startCommands = async () => {
  const mayRun = session.commands_enabled && session.role === "command";
  show($("command-form"), mayRun);
  const operator = `${session.role} ${session.name}`;
  if (commands.operator === operator) return;
  commands.operator = operator;
  show($("commands"), await loadCommands());
};

const hideCommands = () => {
  show($("commands"), false);
  Object.assign(commands, { operator: "", list: [] });
  renderCommands();
};

/** Returns false if the operator may not see them. */
const loadCommands = async () => {
  clearTimeout(commands.timer);
  try {
    const { commands: list } = await restData(await request(`${COMMANDS_PATH}?limit=${SHOWN_COMMANDS}`));
    commands.list = list;
    renderCommands();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if ([401, 403, 404].includes(error.status)) return false;
  }
  scheduleCommands();
  return true;
};

const isUnfinished = ({ command }) => ["pending", "running"].includes(command.status);

/** Results may be large, so they are requested every 2 s only while a command is unfinished. */
const scheduleCommands = () => {
  const wait = commands.list.some(isUnfinished) ? ACTIVE_MS : IDLE_MS;
  commands.timer = setTimeout(() => ($("commands-open").open && !document.hidden ? loadCommands() : scheduleCommands()), wait);
};

const runCommand = async event => {
  event.preventDefault();
  const field = $("command");
  setText($("command-error"), "");
  try {
    await restData(await post(COMMANDS_PATH, { command_text: field.value, timeout: Number($("command-timeout").value) }));
    field.value = "";
  } catch (error) {
    setText($("command-error"), error.message);
    if (!(error instanceof RequestError)) throw error;
  }
  loadCommands();
};

const createCommand = () => {
  const [sign, text, state, note] = [make("span"), make("code"), make("b"), make("span", { class: "rest" })];
  const [stdout, stderr] = ["stdout", "stderr"].map(name => make("pre", { class: name, tabindex: "0", "aria-label": name }));
  return { node: make("li", {}, make("p", {}, sign, text, state, note), stdout, stderr), sign, text, state, note, stdout, stderr };
};

const updateCommand = (parts, { command, result }) => {
  const { command_text: text, status, created_at: created } = command;
  setMark(parts.sign, COMMAND_MARKS[status] ?? "unknown");
  setText(parts.text, text);
  setText(parts.state, status);
  const milliseconds = result?.execution_time_ms;
  setText(parts.note, joinDots([
    isKnown(result?.exit_code) && `exit code ${result.exit_code}`,
    isKnown(milliseconds) && `${(milliseconds / 1000).toFixed(1)} s`,
    created && new Date(created).toLocaleString(),
  ]));
  for (const name of ["stdout", "stderr"]) {
    show(parts[name], Boolean(result?.[name]));
    setText(parts[name], result?.[name] ?? "");
  }
};

const renderCommands = () => {
  const { list } = commands;
  show($("commands-none"), list.length === 0);
  const unfinished = list.filter(isUnfinished).length;
  setText($("commands-aside"), unfinished ? `${unfinished} unfinished` : "");
  reconcile($("command-list"), list, ({ command }) => command.command_id, createCommand, updateCommand);
};

$("command-form").addEventListener("submit", runCommand);
$("commands-open").addEventListener("toggle", () => { if ($("commands-open").open) loadCommands(); });
