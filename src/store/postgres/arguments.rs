//! The values of a statement, as the driver takes them.

use oriva_hub_actors::model::Timestamp;
use sqlx_pg::{
    Arguments as _, PgConnection,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
};

use crate::store::{
    StoreError,
    sql::statement::{Kind, Statement, Value},
};

/// Runs a statement that is still needed. Returns all rows.
pub(super) async fn fetch_all(
    connection: &mut PgConnection,
    statement: &Statement<'_>,
) -> Result<Vec<PgRow>, StoreError> {
    Ok(sqlx_pg::query_with(&statement.sql, arguments(statement)?).fetch_all(connection).await?)
}

/// The values of a statement as PostgreSQL takes them.
pub(super) fn arguments(statement: &Statement<'_>) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    for value in &statement.values {
        let added = match value {
            Value::Text(text) => arguments.add(text.as_deref()),
            Value::Bytes(bytes) => arguments.add(bytes.as_deref()),
            Value::Flag(flag) => arguments.add(flag),
            Value::Small(number) => arguments.add(number),
            Value::Big(number) => arguments.add(number),
            Value::Id(id) => arguments.add(id),
            Value::Array(kind, values) => add_array(&mut arguments, *kind, values),
            Value::Moment(moment) => arguments.add(moment.map(Timestamp::as_datetime)),
            Value::Texts(texts) => arguments.add(texts),
        };
        added.map_err(StoreError::failed)?;
    }
    Ok(arguments)
}

fn add_array(arguments: &mut PgArguments, kind: Kind, values: &[Value<'_>]) -> Result<(), BoxDynError> {
    macro_rules! add {
        ($variant:ident, $value:ident => $element:expr) => {
            arguments.add(
                values
                    .iter()
                    .map(|value| match value {
                        Value::$variant($value) => Ok($element),
                        other => Err(format!("{other:?} is no {kind:?}")),
                    })
                    .collect::<Result<Vec<_>, _>>()?,
            )
        };
    }
    match kind {
        Kind::Text | Kind::Json | Kind::Address => add!(Text, text => text.as_deref()),
        Kind::Bytes => add!(Bytes, bytes => bytes.as_deref()),
        Kind::Flag => add!(Flag, flag => *flag),
        Kind::Small => add!(Small, number => *number),
        Kind::Big => add!(Big, number => *number),
        Kind::Id => add!(Id, id => *id),
        Kind::Moment => add!(Moment, moment => moment.map(Timestamp::as_datetime)),
    }
}
