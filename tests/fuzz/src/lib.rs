//! What the fuzz targets have in common: the input read as a program, a machine made of it, a connection in memory, and
//! judges of what comes out.

pub mod exposition;
pub mod machine;
pub mod program;
pub mod stage;
pub mod wire;
