// Login and logout. The hub keeps the session in a cookie that scripts cannot read; this page never stores the token.

const session = { isLoaded: false, authenticated: false };

const NO_LOGIN = "The hub has no operators.tokens_file, so it refuses requests that a proxy has forwarded.";

/** Fails with status 401 if the operator must log in. */
const ensureSession = async () => {
  if (!session.isLoaded) {
    const { name = null, role = "", login = false, commands_enabled = false, authenticated } = await requestJson("api/session");
    Object.assign(session, { isLoaded: true, authenticated, name, role, login, commands_enabled });
    renderUser();
  }
  if (session.authenticated) return;
  session.isLoaded = false;
  throw session.login ? new RequestError(401, "") : new RequestError(403, NO_LOGIN);
};

const renderUser = () => {
  const isLoggedIn = session.authenticated && session.login;
  show($("user"), isLoggedIn);
  setText($("user-name"), session.name ?? "");
  setText($("user-role"), session.role);
};

const showLogin = problem => {
  const wasShown = link.state === "token";
  link.state = "token";
  Object.assign(session, { isLoaded: false, authenticated: false });
  renderUser();
  dispatchEvent(new Event("logout"));
  setText($("token-error"), problem);
  renderConnection();
  if (!wasShown || problem) $("token").focus();
};

const submitToken = async token => {
  $("token").value = "";
  setText($("token-error"), "");
  try {
    await post("api/login", { token });
  } catch (error) {
    showLogin(error.status === 401 ? "Wrong token." : error.message);
    return;
  }
  Object.assign(link, { state: "connecting", tries: 0 });
  poll();
};

const logOut = async () => {
  try {
    await post("api/logout");
  } catch (error) {
    if (error.status !== 401) {
      onFailure(error);
      renderConnection();
      return;
    }
  }
  dispatchEvent(new Event("logout"));
  location.reload(); // drops everything that this page has received
};

$("log-out").addEventListener("click", logOut);
