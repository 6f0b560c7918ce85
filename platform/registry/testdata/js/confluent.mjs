// Drives a schema registry with Confluent's own client for JavaScript: confluent.mjs URL CLOSED KEY, with NODE_PATH set to a folder that
// has @confluentinc/schemaregistry. CLOSED is the URL of another registry, which asks for the API key KEY. Exit status 0 = all as expected.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const require = createRequire(`${process.env.NODE_PATH}/`)
const { SchemaRegistryClient, AvroSerializer, AvroDeserializer, HeaderSchemaIdSerializer, SerdeType, Compatibility } = require('@confluentinc/schemaregistry')

const [url, closed, key] = process.argv.slice(2)
const connect = (more = {}) => new SchemaRegistryClient({ baseURLs: [url], cacheCapacity: 1000, cacheLatestTtlSecs: 1, maxRetries: 0, ...more })
const client = connect()
let steps = 0
const check = (what, got, want) => { steps++; assert.deepEqual(got, want, what) }
const refused = async (what, status, code, call) => {
  steps++
  try {
    await call()
  } catch (e) {
    assert.deepEqual([e.status ?? e.response?.status, e.errorCode ?? e.response?.data?.error_code], [status, code], `${what}: ${e.message}`)
    return
  }
  assert.fail(`${what}: not refused`)
}
const record = (...fields) => JSON.stringify({
  type: 'record', name: 'R', namespace: 'shop.test.v1',
  fields: fields.map(f => f.endsWith('?') ? { name: f.slice(0, -1), type: 'long', default: 0 } : { name: f, type: 'long' }),
})
const avro = (schema, more = {}) => ({ schema, schemaType: 'AVRO', ...more })
const a = avro(record('a')), ab = avro(record('a', 'b?')), bad = avro(record('z'))

check('no subjects', await client.getAllSubjects(), [])
check('register', await client.register('s/1', a), 1)
check('register again', await connect().register('s/1', a, true), 1)
check('register the next', await client.register('s/1', ab), 2)
const full = await connect().registerFullResponse('t', a)
check('full answer', [full.id, full.version], [1, 1])
await refused('incompatible', 409, 409, () => connect().register('s/1', bad))
await refused('no schema', 422, 42201, () => connect().register('s/1', avro('{}')))

check('by id', JSON.parse((await connect().getBySubjectAndId('s/1', 2)).schema), JSON.parse(ab.schema))
await refused('unknown id', 404, 40403, () => connect().getBySubjectAndId('s/1', 99))
check('look up', await connect().getId('s/1', ab), 2)
const found = await connect().getIdFullResponse('s/1', ab)
check('look up, all of it', [found.id, found.version, found.subject], [2, 2, 's/1'])
check('by GUID', JSON.parse((await connect().getByGuid(found.guid)).schema), JSON.parse(ab.schema))
check('latest', (await connect().getLatestSchemaMetadata('s/1')).version, 2)
check('version', (await connect().getSchemaMetadata('s/1', 1, false)).id, 1)
check('number of a text', await connect().getVersion('s/1', ab, false, false), 2)
check('versions', await client.getAllVersions(encodeURIComponent('s/1')), [1, 2]) // it does not encode the name itself
check('subjects', await client.getAllSubjects(), ['s/1', 't'])
await refused('unknown subject', 404, 40401, () => connect().getLatestSchemaMetadata('nope'))
await refused('unknown version', 404, 40402, () => connect().getSchemaMetadata('s/1', 9, false))

check('compatible', await client.testCompatibility('s/1', 2, ab), true)
check('not compatible', await client.testSubjectCompatibility('s/1', bad), false)
check('global level', await client.getDefaultCompatibility(), 'FULL_TRANSITIVE')
check('set level', await client.updateCompatibility('s/1', Compatibility.NONE), 'NONE')
check('level', await client.getCompatibility('s/1'), 'NONE')
check('set configuration', (await client.updateConfig('cfg', { compatibility: 'BACKWARD', normalize: true, compatibilityGroup: 'major' })).compatibility, 'BACKWARD')
const cfg = await client.getConfig('cfg')
check('configuration', [cfg.compatibilityLevel, cfg.normalize, cfg.compatibilityGroup], ['BACKWARD', true, 'major'])
check('set default level', await client.updateDefaultCompatibility(Compatibility.FULL), 'FULL')

const ruleSet = { domainRules: [{ name: 'r', kind: 'CONDITION', type: 'CEL', mode: 'WRITE', expr: 'true' }] }
const meta = { properties: { major: '7' }, tags: { 'shop.test.v1.R.a': ['PII'] }, sensitive: ['x'] }
const third = await connect().registerFullResponse('s/1', avro(record('a', 'b?', 'c?'), { metadata: meta, ruleSet }))
check('metadata', [third.metadata.properties, third.ruleSet.domainRules[0].expr], [{ major: '7' }, 'true'])
check('latest with metadata', (await connect().getLatestWithMetadata('s/1', { major: '7' }, false)).version, 3)
await refused('no such metadata', 404, 40403, () => connect().getLatestWithMetadata('s/1', { major: '8' }, false))

check('register what is referred to', await client.register('money', avro('{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"minor","type":"long"}]}')), 4)
const references = [{ name: 'shop.Money', subject: 'money', version: 1 }]
const order = avro('{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"total","type":"Money"}]}', { references })
check('register with references', await client.register('orders-value', order), 5)
check('references', (await connect().getBySubjectAndId('orders-value', 5)).references, references)
await refused('delete what is referred to', 422, 42206, () => client.deleteSubjectVersion('money', 1, false))

check('associations', await client.getAssociationsByResourceName('orders', '-', 'topic', ['value'], null, 0, -1), [])
// The default strategy asks for associations first, and falls back to <topic>-value.
for (const conf of [{ useLatestVersion: true }, { autoRegisterSchemas: false, useLatestVersion: true }]) {
  const fresh = connect()
  const frame = await new AvroSerializer(fresh, SerdeType.VALUE, conf).serialize('orders', { total: { minor: 7 } })
  check('frame', [...frame], [0, 0, 0, 0, 5, 14])
  check('decoded', JSON.parse(JSON.stringify(await new AvroDeserializer(connect(), SerdeType.VALUE, {}).deserialize('orders', frame))), { total: { minor: 7 } })
}

check('delete version', await client.deleteSubjectVersion('s/1', 3, false), 3)
check('delete version for good', await client.deleteSubjectVersion('s/1', 3, true), 3)
check('delete', await client.deleteSubject('t', false), [1])
check('delete for good', await client.deleteSubject('t', true), [1])

const context = connect({ baseURLs: [`${url}/contexts/.js`] })
check('in a context', await context.register('s', a), 1)
check('subjects there', await context.getAllSubjects(), [':.js:s'])

// The schema's GUID in a header instead of its id before the data, for values and for keys.
for (const [type, subject, header] of [[SerdeType.VALUE, 'framed-value', '__value_schema_id'], [SerdeType.KEY, 'framed-key', '__key_schema_id']]) {
  await client.register(subject, ab)
  const headers = {}
  const frame = await new AvroSerializer(connect(), type, { useLatestVersion: true, schemaIdSerializer: HeaderSchemaIdSerializer }).serialize('framed', { a: 7, b: 8 }, headers)
  const { guid } = await connect().getLatestSchemaMetadata(subject)
  check('frame without id', [[...frame], headers[header].toString('hex')], [[14, 16], '01' + guid.replaceAll('-', '')])
  check('decoded by header', JSON.parse(JSON.stringify(await new AvroDeserializer(connect(), type, {}).deserialize('framed', frame, headers))), { a: 7, b: 8 })
}

// Serializers that are told which schema to take, and readers that take the newest or a certain one.
const older = await client.register('versioned-value', avro(record('a'), { metadata: { properties: { major: '5' } } }))
await client.register('versioned-value', avro(record('a', 'b?'), { metadata: { properties: { major: '6' } } }))
const versioned = await new AvroSerializer(connect(), SerdeType.VALUE, { useLatestWithMetadata: { major: '5' } }).serialize('versioned', { a: 1 })
check('latest with metadata', [...versioned], [0, 0, 0, 0, older, 2])
const read = async conf => JSON.parse(JSON.stringify(await new AvroDeserializer(connect(), SerdeType.VALUE, conf).deserialize('versioned', versioned)))
check('read by the newest', await read({ useLatestVersion: true }), { a: 1, b: 0 })
check('read by one with metadata', await read({ useLatestWithMetadata: { major: '5' } }), { a: 1 })
check('a certain id', [...await new AvroSerializer(connect(), SerdeType.VALUE, { useSchemaId: older }).serialize('versioned', { a: 1 })], [0, 0, 0, 0, older, 2])

// Which subject a topic has: the default strategy asks for it.
const shared = await client.register('shared', ab)
const made = await client.createAssociation({
  resourceName: 'associated', resourceNamespace: 'lkc-1', resourceId: 'topic-id', resourceType: 'topic',
  associations: [{ subject: 'shared', associationType: 'value', lifecycle: 'WEAK' }],
})
check('association', made.associations, [{ subject: 'shared', associationType: 'value', lifecycle: 'WEAK', frozen: false }])
check('associations', (await client.getAssociationsByResourceName('associated', '-', 'topic', ['value'], null, 0, -1)).map(a => [a.subject, a.resourceId]), [['shared', 'topic-id']])
const associated = await new AvroSerializer(connect(), SerdeType.VALUE, { useLatestVersion: true }).serialize('associated', { a: 1, b: 2 })
check('under the associated subject', [...associated], [0, 0, 0, 0, shared, 2, 4])
await refused('a subject in use', 409, 40904, () => connect().deleteSubject('shared', false))
await client.deleteAssociations('topic-id', 'topic', ['value'], false)
check('no associations', await client.getAssociationsByResourceName('associated', '-', 'topic', ['value'], null, 0, -1), [])
check('all configurations', [(await client.updateDefaultConfig({ compatibility: 'FULL_TRANSITIVE' })).compatibility, (await client.getDefaultConfig()).compatibilityLevel], ['FULL_TRANSITIVE', 'FULL_TRANSITIVE'])
await refused('recursion', 422, 42201, () => connect().register('list', avro('{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}')))

// Credentials, in the ways that the client knows.
const guarded = more => connect({ baseURLs: [closed], ...more })
await refused('nobody reads', 401, 401, () => guarded().getAllSubjects())
await refused('a wrong key', 401, 401, () => guarded({ basicAuthCredentials: { credentialsSource: 'USER_INFO', userInfo: 'x:millrace_no_key' } }).getAllSubjects())
check('with a key', await guarded({ basicAuthCredentials: { credentialsSource: 'USER_INFO', userInfo: `anybody:${key}` } }).register('s', a), 1)
check('with a token', await guarded({ bearerAuthCredentials: { credentialsSource: 'STATIC_TOKEN', token: key, logicalCluster: 'lsrc-1', identityPoolId: 'pool-1' } }).register('s', a), 1)

// Many at once, as serializers that start together do.
const ids = await Promise.all(Array.from({ length: 50 }, (_, i) => connect().register('at-once', avro(record('a', `n${i % 5}?`)))))
check('at once', [new Set(ids).size, (await client.getAllVersions('at-once')).sort()], [5, [1, 2, 3, 4, 5]])
console.log(`${steps} checks`)
