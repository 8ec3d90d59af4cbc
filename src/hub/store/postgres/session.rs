//! One connection to PostgreSQL. Each call has a deadline: a server that is stopped, or cut off, answers nothing and reports no error.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::hub::store::StoreError;
use crate::hub::store::postgres::url::{PostgresUrl, describe};

/// For connecting to all hosts of the URL, and the first statements.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// For the request to cancel a statement, which needs a connection of its own.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// The first version with what the hub uses.
const MIN_VERSION: i32 = 150_000;

/// A transaction of a hub that is stopped must not hold its locks. A plan that was kept from the time when a table was small reads all of
/// it with each batch, until the table is analyzed.
const SETTINGS: &str = "
    SET plan_cache_mode = force_custom_plan;
    SET statement_timeout = '60s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '15s';
    SET client_min_messages = warning;
    SET timezone = 'UTC';";

/// Stack of a thread that uses a session: its statements are one large state machine.
pub const SESSION_STACK_BYTES: usize = 2 << 20;

pub struct PgSession {
    runtime: Runtime,
    client: Client,
    tls: Option<Arc<ClientConfig>>,
    notifications: UnboundedReceiver<Notification>,
    has_timed_out: bool,
}

/// Of a channel that the session listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub channel: String,
    pub payload: String,
}

impl PgSession {
    pub fn connect(url: &PostgresUrl) -> Result<Self, StoreError> {
        let system = |error: io::Error| StoreError(format!("start a runtime: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(system)?;
        let tls = url.tls_config().map_err(StoreError)?;
        let hosts = url.each_host();
        let limit = CONNECT_TIMEOUT / u32::try_from(hosts.len()).unwrap_or(1).max(1);
        let mut connected = Err(StoreError("host missing".to_owned()));
        for host in &hosts {
            let attempt = async {
                let (client, notifications) = match &tls {
                    None => open(host, NoTls).await?,
                    Some(tls) => {
                        open(host, MakeRustlsConnect::new(ClientConfig::clone(tls))).await?
                    }
                };
                prepare(&client).await?;
                Ok((client, notifications))
            };
            let result = runtime.block_on(async { timeout(limit, attempt).await });
            connected = result.unwrap_or_else(|_| Err(no_answer(limit)));
            if connected.is_ok() {
                break;
            }
        }
        let (client, notifications) = connected?;
        Ok(Self { runtime, client, tls, notifications, has_timed_out: false })
    }

    /// Whether a call has failed such that the connection cannot be used any more.
    pub fn is_broken(&self) -> bool {
        self.has_timed_out || self.client.is_closed()
    }

    /// Whether a call has taken longer than its limit.
    pub fn has_timed_out(&self) -> bool {
        self.has_timed_out
    }

    /// Runs statements. If they take longer than `limit`, the connection is broken, and what they have done is unknown. The one that runs then
    /// is cancelled.
    pub fn run<R>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Client) -> Result<R, tokio_postgres::Error>,
    ) -> Result<R, StoreError> {
        self.run_to_commit(limit, &Cell::new(false), work)
    }

    /// The same. `work` sets `is_committing` when it begins to commit what is acknowledged afterwards. A commit is not cancelled: if it waits for
    /// a replica, PostgreSQL would show others what the replica does not have, and a repeat of it would be acknowledged.
    pub fn run_to_commit<R>(
        &mut self,
        limit: Duration,
        is_committing: &Cell<bool>,
        work: impl AsyncFnOnce(&mut Client) -> Result<R, tokio_postgres::Error>,
    ) -> Result<R, StoreError> {
        let client = &mut self.client;
        let result = self.runtime.block_on(async {
            let result = timeout(limit, work(client)).await;
            // Sends the ROLLBACK of a transaction that was dropped, which would hold its locks until the next call.
            yield_now().await;
            result
        });
        match result {
            Ok(result) => result.map_err(StoreError::from),
            Err(_) => {
                self.has_timed_out = true;
                if !is_committing.get() {
                    self.cancel();
                }
                Err(no_answer(limit))
            }
        }
    }

    /// Lets the server end the statement that runs, which would hold its locks until its own timeout: the server does not notice the end of the
    /// connection meanwhile.
    fn cancel(&self) {
        let token = self.client.cancel_token();
        let request = async {
            match &self.tls {
                None => token.cancel_query(NoTls).await,
                Some(tls) => {
                    token.cancel_query(MakeRustlsConnect::new(ClientConfig::clone(tls))).await
                }
            }
        };
        match self.runtime.block_on(async { timeout(CANCEL_TIMEOUT, request).await }) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::debug!("store: cannot cancel: {}", describe(&error)),
            Err(_) => log::debug!("store: {}", no_answer(CANCEL_TIMEOUT)),
        }
    }

    /// Waits for a notification of a channel that the session listens to.
    pub fn wait_notification(
        &mut self,
        limit: Duration,
    ) -> Result<Option<Notification>, StoreError> {
        let receiver = &mut self.notifications;
        match self.runtime.block_on(async { timeout(limit, receiver.recv()).await }) {
            Ok(Some(notification)) => Ok(Some(notification)),
            Ok(None) => Err(StoreError("the database has closed the connection".to_owned())),
            Err(_) => Ok(None),
        }
    }
}

fn no_answer(limit: Duration) -> StoreError {
    StoreError(format!("the database does not answer within {} s", limit.as_secs()))
}

async fn open<T>(
    host: &Config,
    tls: T,
) -> Result<(Client, UnboundedReceiver<Notification>), StoreError>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = host.connect(tls).await?;
    let (sender, notifications) = unbounded_channel();
    tokio::spawn(async move {
        // The client reports how the connection has ended.
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            on_message(message, &sender);
        }
    });
    Ok((client, notifications))
}

fn on_message(message: AsyncMessage, sender: &UnboundedSender<Notification>) {
    match message {
        AsyncMessage::Notification(notification) => {
            let (channel, payload) =
                (notification.channel().to_owned(), notification.payload().to_owned());
            // The session may be about to be dropped.
            let _ = sender.send(Notification { channel, payload });
        }
        AsyncMessage::Notice(notice) => log::debug!("store: {}", notice.message()),
        _ => {}
    }
}

async fn prepare(client: &Client) -> Result<(), StoreError> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'), current_setting('server_encoding')",
            &[],
        )
        .await?;
    let (number, version): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    let (fsync, commit): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    if number < MIN_VERSION {
        let why = format!("PostgreSQL {version} is too old: 15 or later is needed");
        return Err(StoreError(why));
    }
    let encoding: String = row.try_get(4)?;
    if encoding != "UTF8" {
        let why = format!("the database has the encoding {encoding}: UTF8 is needed");
        return Err(StoreError(why));
    }
    if fsync == "off" {
        log::warn!("store: fsync is off: a crash of the database may lose acknowledged reports");
    }
    client.batch_execute(SETTINGS).await?;
    // A report is acknowledged after its commit, which must be durable then. Stronger values stay.
    if commit == "off" {
        client.batch_execute("SET synchronous_commit = on").await?;
    }
    Ok(())
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(of_server) = error.as_db_error() else { return Self(describe(&error)) };
        let detail = of_server.detail().map_or(String::new(), |detail| format!(" ({detail})"));
        let code = of_server.code().code();
        Self(format!("{}{detail}, SQLSTATE {code}", of_server.message()))
    }
}
