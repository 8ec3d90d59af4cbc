//! AMD GPUs, from sysfs: [`card`] reads the values of one, [`kfd`] finds the processes that use it. No library of AMD is used.

pub(super) mod card;
mod firmware;
pub(super) mod kfd;
mod sensors;
