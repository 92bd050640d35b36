//! stub
#![allow(missing_docs)]
#[derive(Clone, Debug)]
pub struct Template;
pub struct Fields<'a> {
    pub batch: &'a str,
    pub id: i64,
    pub key: Option<&'a str>,
    pub task_id: &'a str,
    pub date: &'a str,
}
impl Template {
    pub fn render(&self, _f: &Fields) -> String {
        String::new()
    }
}
pub fn with_suffix(_n: &str, _id: i64, _k: u32) -> String {
    String::new()
}
