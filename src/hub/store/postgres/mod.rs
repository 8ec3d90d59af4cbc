//! The database that several hubs share: PostgreSQL 15 or later.

pub mod conflict;
mod connection;
pub mod locks;
mod maintenance;
pub mod node_info;
mod partitions;
mod reader;
pub mod schema;
pub mod session;
pub mod url;
mod values;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::hub::store::database::{Database, OpenDatabase, Reader};
use crate::hub::store::postgres::connection::Connection;
use crate::hub::store::postgres::reader::{Place, PostgresReader};
use crate::hub::store::postgres::session::PgSession;
use crate::hub::store::postgres::url::PostgresUrl;
use crate::hub::store::postgres::writer::PostgresWriter;
use crate::hub::store::{Retention, StoreError};

pub struct PostgresDatabase {
    url: PostgresUrl,
    /// Number of connections for queries.
    readers: Arc<AtomicUsize>,
}

impl PostgresDatabase {
    /// Creates or migrates the schema.
    pub fn open(url: &PostgresUrl, retention: Retention) -> Result<OpenDatabase, StoreError> {
        let mut session = PgSession::connect(url)?;
        schema::migrate(&mut session)?;
        let writer = PostgresWriter::new(Connection::new(url.clone(), session), retention);
        Ok(OpenDatabase {
            database: Box::new(Self { url: url.clone(), readers: Arc::default() }),
            writer: Box::new(writer),
        })
    }
}

impl Database for PostgresDatabase {
    fn open_reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        let place = Place::take(&self.readers)?;
        PostgresReader::connect(&self.url, place).map(|reader| Box::new(reader) as Box<dyn Reader>)
    }
}
