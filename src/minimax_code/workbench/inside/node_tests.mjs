// Tells what became of each test of `node --test`. It runs in the parent of the processes that run the tests,
// so they never meet; the lines are sealed as those of python_tests.py are.
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';

const secret = readFileSync(0);
let told = 0;

function sealed(record) {
  const text = JSON.stringify({ ...record, seq: told++ });
  return `\n\x1e${createHmac('sha256', secret).update(text).digest('hex')} ${text}\n`;
}

function why(error) {
  return String(error?.cause?.stack ?? error?.cause ?? error?.stack ?? error ?? '').slice(-4000);
}

// A skipped test passed and a todo may fail; a file that passes without a test in it has tested nothing.
function outcome(type, data, isFile) {
  if (data.skip !== undefined || data.todo !== undefined) return 'skipped';
  if (type === 'test:fail') return isFile ? 'error' : 'failed';
  return isFile ? 'skipped' : 'passed';
}

export default async function* (source) {
  const outer = [];
  const said = new Map();  // by file: why one that can't be loaded fails, stands on its stderr alone
  let planned = 0;
  let bad = 0;
  for await (const { type, data } of source) {
    const isFile = data.nesting === 0 && data.name === data.file;
    if (type === 'test:enqueue' && !isFile) planned++;  // a file is a test only where there is none in it
    if (type === 'test:stderr') said.set(data.file, ((said.get(data.file) ?? '') + data.message).slice(-4000));
    if (type === 'test:start') outer[data.nesting] = data.name;
    if (type === 'test:coverage') {
      for (const file of data.summary.files) {
        const statements = file.lines.map((line) => line.line);
        const missing = file.lines.filter((line) => line.count === 0).map((line) => line.line);
        yield sealed({ kind: 'lines', file: relative('', file.path), statements, missing, tests: {} });
      }
    }
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    const file = relative('', data.file ?? '');
    const name = isFile ? file : [file, ...outer.slice(0, data.nesting), data.name].join(' > ');
    const failure = (isFile && said.get(data.file)) || why(data.details?.error);
    const message = type === 'test:fail' ? failure : isFile ? 'no test in it was run' : String(data.skip ?? data.todo ?? '');
    const ended = outcome(type, data, isFile);
    if (ended === 'failed' || ended === 'error') bad++;
    yield sealed({ kind: 'case', name, outcome: ended, message });
  }
  yield sealed({ kind: 'end', status: bad ? 1 : 0, planned });
}
