// E2B's published JavaScript client against a fleet: made, used, listed, paused, found again, ended.
import { Sandbox } from 'e2b'

const [url, apiKey, folder] = process.argv.slice(2)
const fleet = { apiUrl: url, sandboxUrl: url, apiKey }

const made = await Sandbox.create('base', { ...fleet, timeoutMs: 120_000, metadata: { by: 'node & co' } })
const ran = await made.commands.run('echo out; echo err >&2')
await made.files.write(`${folder}/node.txt`, 'hello')
const read = await made.files.read(`${folder}/node.txt`)
const pages = Sandbox.list({ ...fleet, query: { metadata: { by: 'node & co' } }, limit: 1 })
const listed = (await pages.nextItems()).map((one) => one.sandboxId)
await made.pause()
const paused = await made.isRunning()
const again = await Sandbox.connect(made.sandboxId, fleet)
const running = await again.isRunning()
const killed = await again.kill()
console.log(
  JSON.stringify({
    out: ran.stdout,
    err: ran.stderr,
    read,
    listed: listed.length === 1 && listed[0] === made.sandboxId,
    states: [paused, running, killed, await again.isRunning()],
  }),
)
