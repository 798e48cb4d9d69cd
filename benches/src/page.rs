//! stub
use crate::result::Results;
/// stub
pub fn html(_: &Results) -> Result<String, String> { Ok(String::new()) }
