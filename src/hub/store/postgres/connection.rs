//! A session that is replaced when it breaks.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error, Statement, Transaction};

use crate::hub::store::StoreError;
use crate::hub::store::postgres::schema;
use crate::hub::store::postgres::session::PgSession;
use crate::hub::store::postgres::url::PostgresUrl;

/// After a failure to connect, the next attempt is not earlier: each one may take seconds, and reports wait for it.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct Connection {
    url: PostgresUrl,
    session: Option<PgSession>,
    statements: Statements,
    /// Whether the last statements have taken too long.
    has_timed_out: bool,
    /// When connecting has failed, and why.
    failure: Option<(Instant, StoreError)>,
}

/// The prepared statements of a session.
#[derive(Default)]
pub(super) struct Statements(HashMap<&'static str, Statement>);

impl Statements {
    pub(super) async fn get(
        &mut self,
        transaction: &Transaction<'_>,
        sql: &'static str,
    ) -> Result<Statement, Error> {
        if let Some(statement) = self.0.get(sql) {
            return Ok(statement.clone());
        }
        let statement = transaction.prepare(sql).await?;
        self.0.insert(sql, statement.clone());
        Ok(statement)
    }
}

impl Connection {
    pub(super) fn new(url: PostgresUrl, session: PgSession) -> Self {
        Self {
            url,
            session: Some(session),
            statements: Statements::default(),
            has_timed_out: false,
            failure: None,
        }
    }

    pub(super) fn has_timed_out(&self) -> bool {
        self.has_timed_out
    }

    pub(super) fn url(&self) -> &PostgresUrl {
        &self.url
    }

    /// Runs statements on the session, or on a new one if it is broken.
    pub(super) fn run<R>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Client, &mut Statements) -> Result<R, Error>,
    ) -> Result<R, StoreError> {
        self.run_to_commit(limit, &Cell::new(false), work)
    }

    /// The same; see [`PgSession::run_to_commit`].
    pub(super) fn run_to_commit<R>(
        &mut self,
        limit: Duration,
        is_committing: &Cell<bool>,
        work: impl AsyncFnOnce(&mut Client, &mut Statements) -> Result<R, Error>,
    ) -> Result<R, StoreError> {
        self.has_timed_out = false;
        let mut session = self.take_session()?;
        let statements = &mut self.statements;
        let work = async |client: &mut Client| work(client, statements).await;
        let result = session.run_to_commit(limit, is_committing, work);
        self.has_timed_out = session.has_timed_out();
        if !session.is_broken() {
            self.session = Some(session);
        }
        result
    }

    fn take_session(&mut self) -> Result<PgSession, StoreError> {
        if let Some(session) = self.session.take().filter(|session| !session.is_broken()) {
            return Ok(session);
        }
        if let Some((at, error)) = &self.failure
            && at.elapsed() < RETRY_INTERVAL
        {
            return Err(error.clone());
        }
        self.statements = Statements::default();
        let connected = PgSession::connect(&self.url).and_then(|mut session| {
            schema::check(&mut session)?;
            Ok(session)
        });
        // The time of its end: connecting may itself take longer than the interval.
        self.failure = connected.as_ref().err().map(|error| (Instant::now(), error.clone()));
        connected
    }
}
