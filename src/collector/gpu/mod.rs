pub mod amd;
pub mod nvidia;
pub mod state;
