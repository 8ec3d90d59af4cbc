//! Reports of hm nodes.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Error;

use crate::config::sha256;
use crate::hub::hm::messages::MachineInfo;
use crate::hub::store::postgres::values::text;
use crate::hub::store::postgres::writer::Batch;
use crate::hub::store::postgres::writer::node_rows::NodeRows;
use crate::hub::store::{Completed, Write};

/// SHA-256 of what rarely differs between the reports of a node.
type WorkloadDigest = [u8; 32];

/// The use of a workload is noted this often at most.
const NOTE_INTERVAL_MS: i64 = 3_600_000;

/// Stores reports. One of the same node and time is stored once.
pub(super) async fn insert(
    batch: &mut Batch<'_>,
    nodes: &NodeRows,
    writes: &[Completed],
) -> Result<(), Error> {
    let reports = || {
        writes.iter().filter_map(|completed| match &completed.pending.write {
            Write::Report { report, .. } => Some((nodes.id(&report.node_id)?, report)),
            _ => None,
        })
    };
    let mut wanted: BTreeMap<WorkloadDigest, &MachineInfo> = BTreeMap::new();
    let mut digests = Vec::new();
    for (_, report) in reports() {
        let digest = digest(&report.info);
        wanted.entry(digest).or_insert(&report.info);
        digests.push(digest);
    }
    if digests.is_empty() {
        return Ok(());
    }
    let workloads = workloads(batch, &wanted).await?;
    let mut columns = Columns::default();
    for ((node, report), digest) in reports().zip(digests) {
        let Some(workload) = workloads.get(&digest) else { continue };
        columns.nodes.push(node);
        columns.sent.push(report.sent);
        columns.workloads.push(*workload);
        columns.utilization.push(report.info.utilization_gpu);
        columns.memory_used.push(report.info.memory_used);
        columns.adjusted.push(report.adjusted);
    }
    let sql = "INSERT INTO hm_report (node, sent, workload, utilization, memory_used, arrived, adjusted)
         SELECT node, sent, workload, utilization, memory_used, $7, adjusted
           FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])
             w (node, sent, workload, utilization, memory_used, adjusted)
           ORDER BY node, sent
         ON CONFLICT (node, sent) DO NOTHING";
    let insert = batch.statements.get(&batch.transaction, sql).await?;
    let Columns { nodes, sent, workloads, utilization, memory_used, adjusted } = &columns;
    batch
        .transaction
        .execute(&insert, &[nodes, sent, workloads, utilization, memory_used, adjusted, &batch.now])
        .await?;
    Ok(())
}

#[derive(Default)]
struct Columns {
    nodes: Vec<i64>,
    sent: Vec<i64>,
    workloads: Vec<i64>,
    utilization: Vec<i64>,
    memory_used: Vec<i64>,
    adjusted: Vec<bool>,
}

fn digest(info: &MachineInfo) -> WorkloadDigest {
    let MachineInfo { project, models, gpu_name, memory_total, .. } = info;
    // Serialization cannot fail: there are no maps.
    sha256(&serde_json::to_vec(&(project, models, gpu_name, memory_total)).unwrap_or_default())
}

/// The rows of workloads, which are created if they do not exist.
async fn workloads(
    batch: &mut Batch<'_>,
    wanted: &BTreeMap<WorkloadDigest, &MachineInfo>,
) -> Result<HashMap<WorkloadDigest, i64>, Error> {
    let mut known = find(batch, wanted.keys()).await?;
    note_use(batch, known.values()).await?;
    let mut known: HashMap<_, _> =
        known.drain().map(|(digest, workload)| (digest, workload.id)).collect();
    let missing: Vec<_> =
        wanted.iter().filter(|(digest, _)| !known.contains_key(*digest)).collect();
    if missing.is_empty() {
        return Ok(known);
    }
    let digests: Vec<&[u8]> = missing.iter().map(|(digest, _)| &digest[..]).collect();
    let projects: Vec<_> = missing.iter().map(|(_, info)| text(&info.project)).collect();
    let models = missing.iter().map(|(_, info)| serde_json::to_string(&info.models));
    let models: Vec<String> = models.map(Result::unwrap_or_default).collect();
    let names: Vec<_> = missing.iter().map(|(_, info)| text(&info.gpu_name)).collect();
    let totals: Vec<i64> = missing.iter().map(|(_, info)| info.memory_total).collect();
    let sql = "INSERT INTO hm_workload (digest, project, models, gpu_name, memory_total, last_used) SELECT *, $6 FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bigint[]) ON CONFLICT (digest) DO UPDATE SET last_used = excluded.last_used";
    let insert = batch.statements.get(&batch.transaction, sql).await?;
    batch
        .transaction
        .execute(&insert, &[&digests, &projects, &models, &names, &totals, &batch.now])
        .await?;
    let created = find(batch, missing.into_iter().map(|(digest, _)| digest)).await?;
    known.extend(created.into_iter().map(|(digest, workload)| (digest, workload.id)));
    Ok(known)
}

/// The row of a workload.
struct Workload {
    id: i64,
    last_used: i64,
}

/// Keeps workloads that are in use from being deleted.
async fn note_use(
    batch: &mut Batch<'_>,
    workloads: impl Iterator<Item = &Workload>,
) -> Result<(), Error> {
    let is_due = |workload: &&Workload| batch.now - workload.last_used >= NOTE_INTERVAL_MS;
    let mut ids: Vec<i64> = workloads.filter(is_due).map(|workload| workload.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    ids.sort_unstable();
    // In the order of the ids: two hubs may do this at once.
    let sql = "UPDATE hm_workload SET last_used = $2 WHERE id IN (SELECT id FROM hm_workload WHERE id = ANY ($1) ORDER BY id FOR UPDATE)";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    batch.transaction.execute(&update, &[&ids, &batch.now]).await.map(drop)
}

async fn find(
    batch: &mut Batch<'_>,
    digests: impl Iterator<Item = &WorkloadDigest>,
) -> Result<HashMap<WorkloadDigest, Workload>, Error> {
    let digests: Vec<&[u8]> = digests.map(|digest| &digest[..]).collect();
    let sql = "SELECT digest, id, last_used FROM hm_workload WHERE digest = ANY ($1)";
    let find = batch.statements.get(&batch.transaction, sql).await?;
    let mut known = HashMap::new();
    for row in batch.transaction.query(&find, &[&digests]).await? {
        let digest: &[u8] = row.try_get(0)?;
        if let Ok(digest) = digest.try_into() {
            known.insert(digest, Workload { id: row.try_get(1)?, last_used: row.try_get(2)? });
        }
    }
    Ok(known)
}
