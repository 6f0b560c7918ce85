// Reads an AsyncAPI document with the published parser and prints what it found; errors and warnings end it with status 1.
const { Parser } = require('@asyncapi/parser');
const { AvroSchemaParser } = require('@asyncapi/avro-schema-parser');
const fs = require('fs');

(async () => {
  const parser = new Parser();
  parser.registerSchemaParser(AvroSchemaParser());
  const { document, diagnostics } = await parser.parse(fs.readFileSync(0, 'utf8'));
  const bad = diagnostics.filter((d) => d.severity < 2); // 0 error, 1 warning, 2 information, 3 hint
  for (const d of bad) console.error(d.code, d.path.join('/'), d.message);
  if (bad.length || !document) process.exit(1);
  const payloads = document.allMessages().all().map((m) => m.payload());
  console.log(JSON.stringify({
    channels: document.allChannels().length,
    messages: document.allMessages().length,
    operations: document.allOperations().length,
    payloads: payloads.filter((p) => p && Object.keys(p.properties() || {}).length > 0).length,
  }));
})();
