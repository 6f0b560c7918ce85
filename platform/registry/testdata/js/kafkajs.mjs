// Drives a schema registry with @kafkajs/confluent-schema-registry: kafkajs.mjs URL, with NODE_PATH set to a folder that has it. Exit
// status 0 = all as expected.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const require = createRequire(`${process.env.NODE_PATH}/`)
const { SchemaRegistry, SchemaType, COMPATIBILITY } = require('@kafkajs/confluent-schema-registry')

const connect = () => new SchemaRegistry({ host: process.argv[2], retry: { retries: 0 } })
const registry = connect()
let steps = 0
const check = (what, got, want) => { steps++; assert.deepEqual(JSON.parse(JSON.stringify(got)), want, what) }
const record = (...fields) => ({ type: SchemaType.AVRO, schema: JSON.stringify({ type: 'record', name: 'R', namespace: 'shop.test.v1', fields }) })
const a = { name: 'a', type: 'long' }, b = { name: 'b', type: 'long', default: 0 }, z = { name: 'z', type: 'long' }

// It sets the level of a subject that has none of its own.
check('register', (await registry.register(record(a), { subject: 'orders-value', compatibility: COMPATIBILITY.BACKWARD })).id, 1)
check('register again', (await connect().register(record(a), { subject: 'orders-value', compatibility: COMPATIBILITY.BACKWARD })).id, 1)
check('register the next', (await registry.register(record(a, b), { subject: 'orders-value', compatibility: COMPATIBILITY.BACKWARD })).id, 2)
check('subject from the name', (await registry.register(record(a))).id, 1)
await assert.rejects(connect().register(record(a, z), { subject: 'orders-value', compatibility: COMPATIBILITY.BACKWARD }), /incompatible/)
await assert.rejects(connect().register({ type: SchemaType.AVRO, schema: '{"type":"record","name":"R","fields":[{"name":"x","type":"Missing"}]}' }, { subject: 'x' }))
check('latest', await registry.getLatestSchemaId('orders-value'), 2)
check('id of a version', await registry.getRegistryId('orders-value', 1), 1)
check('id of a text', await registry.getRegistryIdBySchema('orders-value', record(a, b)), 2)
await assert.rejects(registry.getRegistryId('orders-value', 9), /Version 9 not found/)
await assert.rejects(registry.getRegistryId('nope', 1), /not found/)

const frame = await registry.encode(2, { a: 7, b: 8 })
check('frame', [...frame], [0, 0, 0, 0, 2, 14, 16])
check('decoded', await connect().decode(frame), { a: 7, b: 8 })
check('decoded by an older reader', await connect().decode(frame, { [SchemaType.AVRO]: { readerSchema: JSON.parse(record(a).schema) } }), { a: 7 })
await assert.rejects(connect().decode(Buffer.from([0, 0, 0, 0, 99, 0])), /not found/)

const money = { type: SchemaType.AVRO, schema: '{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"minor","type":"long"}]}' }
check('register what is referred to', (await registry.register(money, { subject: 'money', compatibility: COMPATIBILITY.BACKWARD })).id, 3)
const order = {
  type: SchemaType.AVRO, schema: '{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"total","type":"shop.Money"}]}',
  references: [{ name: 'shop.Money', subject: 'money', version: 1 }],
}
check('register with references', (await registry.register(order, { subject: 'order', compatibility: COMPATIBILITY.BACKWARD })).id, 4)
const referring = await connect().encode(4, { total: { minor: 3 } })
check('frame with references', [...referring], [0, 0, 0, 0, 4, 6])
check('decoded with references', await connect().decode(referring), { total: { minor: 3 } })
console.log(`${steps} checks`)
