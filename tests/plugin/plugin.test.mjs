// The plugin without OpenCode: told what OpenCode tells, and asked what the hub asks.

import assert from "node:assert/strict"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import http from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, test } from "node:test"

import plugin from "../../src/agenthub_adapters/plugin/agenthub.js"

const SOURCE = new URL("../../src/agenthub_adapters/plugin/agenthub.js", import.meta.url)
const SOCKET = `${process.pid}.sock`
const MESSAGE = "msg_0123456789abAgHubAAAAAAAAA"
const NOTE = "msg_0123456789abAgTldAAAAAAAAA"
const TYPED = [{ type: "text" }]

const { now } = Date
let home, hub, opened, client

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "agenthub-"))
  hub = join(home, "hub")
  mkdirSync(hub)
  opened = []
  client = { session: { get: async ({ path: { id } }) => ({ data: { slug: `slug-${id}`, directory: "/project" } }) } }
})

afterEach(() => {
  Date.now = now
  for (const hooks of opened) hooks.dispose()
  delete globalThis.agenthub
  rmSync(home, { recursive: true })
})

const open = async (directory = "/project") => {
  process.env.AGENT_HUB_DIR = hub
  const hooks = await plugin.server({ client, directory })
  opened.push(hooks)
  return hooks
}

/** What the process is asked over its socket. */
const ask = (method, path, body) =>
  new Promise((resolve, reject) => {
    const request = http.request(
      { socketPath: join(hub, "run", SOCKET), method, path, agent: false },
      async (answer) => {
        let text = ""
        for await (const chunk of answer.setEncoding("utf8")) text += chunk
        resolve({ status: answer.statusCode, body: JSON.parse(text) })
      },
    )
    request.on("error", reject)
    request.end(typeof body === "object" ? JSON.stringify(body) : body)
  })

const sessions = async () => (await ask("GET", "/")).body.sessions
const session = async (id = "ses_a") => (await sessions()).find((each) => each.id === id)

/** Listen to what is told, until `done` has been told; then what was told, in order. */
const toldUntil = (done, act) =>
  new Promise((resolve, reject) => {
    const request = http.get({ socketPath: join(hub, "run", SOCKET), path: "/events", agent: false }, (stream) => {
      let text = ""
      stream.setEncoding("utf8").on("data", (chunk) => {
        if (!text) act()
        text += chunk
        const told = text
          .split("\n\n")
          .slice(0, -1)
          .map((each) => each.match(/^event: (.*)\ndata: (.*)$/))
          .map(([, event, data]) => [event, JSON.parse(data)])
        if (!told.some(([event, object]) => done(event, object))) return
        resolve(told.slice(1))
        request.destroy()
      })
    })
    request.on("error", reject)
  })

const happens = (hooks, type, sessionID, more) => hooks.event({ event: { type, properties: { sessionID, ...more } } })
const created = (hooks, id, parentID) => happens(hooks, "session.created", id, { info: { id, parentID } })
const status = (hooks, id, type) => happens(hooks, "session.status", id, { status: { type } })
const prompted = (hooks, id, message, parts = TYPED) =>
  hooks["chat.message"]({ sessionID: id }, { message: { id: message }, parts })

describe("a session lives in a process", () => {
  test("once it was created, prompted, or is at work there", async () => {
    const hooks = await open()
    created(hooks, "ses_a")
    prompted(hooks, "ses_b", "msg_1")
    status(hooks, "ses_c", "busy")
    assert.deepEqual(
      (await sessions()).map(({ id, state, shown }) => [id, state, shown]),
      [
        ["ses_a", "idle", null],
        ["ses_b", "busy", null],
        ["ses_c", "busy", null],
      ],
    )
  })

  test("but not because its title changed or somebody aborted nothing", async () => {
    const hooks = await open()
    happens(hooks, "session.updated", "ses_a", { info: {} })
    status(hooks, "ses_a", "idle")
    assert.deepEqual(await sessions(), [])
  })

  test("until it is deleted, which is told of once", async () => {
    const hooks = await open()
    created(hooks, "ses_a")
    const told = await toldUntil(
      (_, { id }) => id === "ses_b",
      () => {
        happens(hooks, "session.deleted", "ses_a", { info: {} })
        happens(hooks, "session.deleted", "ses_a", { info: {} })
        created(hooks, "ses_b")
      },
    )
    assert.deepEqual(told[0], ["gone", { id: "ses_a" }])
    assert.equal(told.filter(([event]) => event === "gone").length, 1)
  })

  test("and a subagent's does not, be that known from the start or later", async () => {
    const hooks = await open()
    created(hooks, "ses_child", "ses_a")
    prompted(hooks, "ses_child", "msg_1")
    status(hooks, "ses_child", "busy")
    prompted(hooks, "ses_late", "msg_2")
    happens(hooks, "session.updated", "ses_late", { info: { parentID: "ses_a" } })
    assert.deepEqual(await sessions(), [])
  })

  test("as long as it is among the thousand used last, or at work", async () => {
    const hooks = await open()
    status(hooks, "ses_busy", "busy")
    for (let n = 0; n < 1000; n++) created(hooks, `ses_${n}`)
    const ids = (await sessions()).map(({ id }) => id)
    assert.equal(ids.length, 1000)
    assert.ok(ids.includes("ses_busy") && ids.includes("ses_999") && !ids.includes("ses_0"))
  })

  test("with the agent and the model that it works with", async () => {
    const hooks = await open()
    created(hooks, "ses_a")
    const model = { id: "echo", providerID: "fake" }
    happens(hooks, "session.updated", "ses_a", { info: { agent: "plan", model } })
    assert.deepEqual(
      [await session()].map((each) => [each.agent, each.model]),
      [["plan", model]],
    )
  })
})

describe("its state", () => {
  const state = async () => (await session()).state

  test("is busy from the prompt to the end of the turn", async () => {
    const hooks = await open()
    prompted(hooks, "ses_a", "msg_1")
    assert.equal(await state(), "busy")
    status(hooks, "ses_a", "busy")
    status(hooks, "ses_a", "retry")
    assert.equal(await state(), "busy")
    status(hooks, "ses_a", "idle")
    assert.equal(await state(), "idle")
  })

  test("is idle again if no turn follows on a prompt", async () => {
    const hooks = await open()
    prompted(hooks, "ses_a", "msg_1")
    Date.now = () => now() + 2001
    happens(hooks, "session.updated", "ses_a", { info: {} })
    assert.equal(await state(), "idle")
  })

  test("stays idle through a note of the hub's, on which no turn follows", async () => {
    const hooks = await open()
    prompted(hooks, "ses_a", NOTE)
    assert.equal(await state(), "idle")
  })

  for (const [asked, answered] of [
    ["permission.asked", "permission.replied"],
    ["question.asked", "question.replied"],
    ["question.asked", "question.rejected"],
  ]) {
    test(`is waiting from ${asked} to the last ${answered}`, async () => {
      const hooks = await open()
      status(hooks, "ses_a", "busy")
      happens(hooks, asked, "ses_a", { id: "ask_1" })
      happens(hooks, asked, "ses_a", { id: "ask_2" })
      happens(hooks, answered, "ses_a", { requestID: "ask_1" })
      assert.equal(await state(), "waiting")
      happens(hooks, answered, "ses_a", { requestID: "ask_2" })
      assert.equal(await state(), "busy")
    })
  }

  test("waits no more once the turn was aborted, though nobody answered", async () => {
    const hooks = await open()
    status(hooks, "ses_a", "busy")
    happens(hooks, "permission.asked", "ses_a", { id: "ask_1" })
    status(hooks, "ses_a", "idle")
    assert.equal(await state(), "idle")
  })

  test("is waiting while a subagent of a subagent asks", async () => {
    const hooks = await open()
    created(hooks, "ses_child", "ses_a")
    created(hooks, "ses_grandchild", "ses_child")
    status(hooks, "ses_a", "busy")
    happens(hooks, "permission.asked", "ses_grandchild", { id: "ask_1" })
    assert.equal(await state(), "waiting")
    status(hooks, "ses_grandchild", "idle")
    assert.equal(await state(), "busy")
  })

  for (const [how, message, parts, used] of [
    ["its user wrote", "msg_1", TYPED, true],
    ["its user wrote beside what OpenCode made up", "msg_1", [{ synthetic: true }, ...TYPED], true],
    ["OpenCode prompted", "msg_1", [{ synthetic: true }], false],
    ["a message came", MESSAGE, TYPED, false],
    ["the hub left a note", NOTE, TYPED, false],
  ]) {
    test(`counts as ${used ? "" : "not "}used where ${how}`, async () => {
      const hooks = await open()
      prompted(hooks, "ses_a", message, parts)
      assert.equal((await session()).used > 0, used)
    })
  }
})

describe("what happens is told", () => {
  const tokens = { input: 1, output: 2, reasoning: 3, cache: { read: 4, write: 5 } }
  const step = (hooks, id, info) =>
    happens(hooks, "message.updated", id, { info: { role: "assistant", tokens, cost: 0.5, ...info } })

  test("each step of a model, with what it answers; a subagent's under its session", async () => {
    const hooks = await open()
    created(hooks, "ses_a")
    created(hooks, "ses_child", "ses_a")
    const completed = now() + 1000
    const told = await toldUntil(
      (_, { message }) => message === "msg_3",
      () => {
        step(hooks, "ses_a", { id: "msg_1", parentID: MESSAGE, time: {} }) // which has not ended
        step(hooks, "ses_a", { id: "msg_2", parentID: MESSAGE, time: { completed } })
        step(hooks, "ses_child", { id: "msg_3", parentID: "msg_task", time: { completed } })
      },
    )
    assert.deepEqual(told, [
      ["step", { id: "ses_a", message: "msg_2", parent: MESSAGE, tokens, cost: 0.5 }],
      ["step", { id: "ses_a", message: "msg_3", parent: null, tokens, cost: 0.5 }],
    ])
  })

  test("a compaction, of a session that lives here", async () => {
    const hooks = await open()
    created(hooks, "ses_a")
    const told = await toldUntil(
      (event) => event === "compacted",
      () => {
        happens(hooks, "session.compacted", "ses_elsewhere")
        happens(hooks, "session.compacted", "ses_a")
      },
    )
    assert.deepEqual(told, [["compacted", { id: "ses_a" }]])
  })

  test("once, and what is of no interest not at all", async () => {
    const hooks = await open()
    created(hooks, "ses_a")
    const told = await toldUntil(
      (_, { id }) => id === "ses_b",
      () => {
        status(hooks, "ses_a", "busy")
        status(hooks, "ses_a", "busy")
        hooks.event({ event: { type: "server.connected", properties: {} } })
        created(hooks, "ses_b")
      },
    )
    assert.deepEqual(
      told.map(([, { id, state }]) => [id, state]),
      [
        ["ses_a", "busy"],
        ["ses_b", "idle"],
      ],
    )
  })
})

describe("a call of a hub's tool", () => {
  const call = (hooks, tool, args = {}, more = {}) => {
    hooks["tool.execute.before"]({ tool: `agent-hub_${tool}`, sessionID: "ses_a", callID: "call_1", ...more }, { args })
    return args
  }
  const claim = (tool, name) => ask("POST", "/claim", { tool, name })
  const named = (names) => writeFileSync(join(hub, "session_agents.json"), JSON.stringify(names))

  test("says who calls, over whatever a model made up, also where it left that out", async () => {
    named({ ses_a: { agentId: "lucky-tiger" } })
    const hooks = await open()
    const mine = "lucky-tiger"
    assert.deepEqual(call(hooks, "send_message", { from: "the-boss", content: "hi" }), { from: mine, content: "hi" })
    assert.deepEqual(call(hooks, "send_message"), { from: mine })
    assert.deepEqual(call(hooks, "resolve_thread"), { from: mine })
    assert.deepEqual(call(hooks, "get_messages"), { agent: mine })
    assert.deepEqual(call(hooks, "register_agent", { id: "the-boss" }), { id: mine })
    assert.deepEqual(call(hooks, "create_thing", { agentId: "x", createdBy: "y" }), { agentId: mine, createdBy: mine })
    assert.deepEqual(call(hooks, "list_agents"), {})
    assert.deepEqual(call(hooks, "search_messages", { agent: "calm-wolf" }), { agent: "calm-wolf" })
  })

  test("is made under the session's id until it has a name, and a subagent's under its session's", async () => {
    const hooks = await open()
    assert.deepEqual(call(hooks, "send_message"), { from: "ses_a" })
    writeFileSync(join(hub, "session_agents.json"), "{")
    assert.deepEqual(call(hooks, "send_message"), { from: "ses_a" })
    named({ ses_a: { agentId: "lucky-tiger" } })
    created(hooks, "ses_child", "ses_a")
    assert.deepEqual(call(hooks, "send_message", {}, { sessionID: "ses_child" }), { from: "lucky-tiger" })
  })

  test("can be claimed once, by the tool and the name, as often as it was made", async () => {
    const hooks = await open()
    call(hooks, "send_message")
    call(hooks, "send_message", {}, { callID: "call_2" })
    for (const [tool, name] of [
      ["get_messages", "ses_a"],
      ["send_message", "ses_b"],
    ]) {
      assert.equal((await claim(tool, name)).status, 404)
    }
    const answer = { session: "ses_a", slug: "slug-ses_a", directory: "/project" }
    assert.deepEqual((await claim("send_message", "ses_a")).body, answer)
    assert.deepEqual((await claim("send_message", "ses_a")).body, answer)
    assert.equal((await claim("send_message", "ses_a")).status, 404)
  })

  test("cannot be claimed once it has ended, nor that of another server's tool", async () => {
    const hooks = await open()
    call(hooks, "send_message")
    const part = { type: "tool", callID: "call_1", state: { status: "error" } }
    happens(hooks, "message.part.updated", "ses_a", { part })
    const mail = { tool: "mail_send_message", sessionID: "ses_a", callID: "call_2" }
    const args = { from: "x" }
    hooks["tool.execute.before"](mail, { args })
    assert.deepEqual(args, { from: "x" })
    assert.equal((await claim("send_message", "ses_a")).status, 404)
  })
})

describe("a hub that is not there", () => {
  test("is found when it comes, and when it comes anew", async () => {
    rmSync(hub, { recursive: true })
    const hooks = await open()
    created(hooks, "ses_a")
    for (const _ of ["comes", "comes anew"]) {
      mkdirSync(hub)
      globalThis.agenthub.listen() // as it does each second
      assert.equal((await sessions()).length, 1)
      rmSync(hub, { recursive: true })
    }
  })

  test("or whose directory is spoilt is waited for in silence", async () => {
    writeFileSync(join(hub, "run"), "no directory")
    const hooks = await open()
    created(hooks, "ses_a")
    rmSync(join(hub, "run"))
    globalThis.agenthub.listen()
    assert.equal((await sessions()).length, 1)
  })

  test("because its path is too long for a socket leaves no trace", async () => {
    hub = join(home, "x".repeat(100))
    mkdirSync(hub)
    const hooks = await open()
    created(hooks, "ses_a")
    assert.deepEqual(readdirSync(hub), [])
  })
})

describe("a process", () => {
  test("takes the place of one that was killed and had its id", async () => {
    mkdirSync(join(hub, "run"))
    writeFileSync(join(hub, "run", SOCKET), "")
    await open()
    assert.equal((await ask("GET", "/")).body.pid, process.pid)
  })

  test("has one endpoint for all its directories, until the last is closed", async () => {
    const one = await open("/one")
    const two = await open("/two")
    created(one, "ses_a")
    created(two, "ses_b")
    one.dispose()
    assert.equal((await sessions()).length, 2)
    two.dispose()
    assert.ok(!existsSync(join(hub, "run", SOCKET)))
  })

  test("knows its sessions after OpenCode has read its settings again", async () => {
    const hooks = await open()
    created(hooks, "ses_a")
    hooks.dispose()
    await open()
    assert.equal((await sessions()).length, 1)
  })

  test("without a channel between the halves is left as if there were no plugin", async () => {
    const { BroadcastChannel } = globalThis
    delete globalThis.BroadcastChannel
    try {
      await assert.rejects(open())
    } finally {
      globalThis.BroadcastChannel = BroadcastChannel
    }
    assert.deepEqual(readdirSync(hub), [])
  })

  test("goes on whatever OpenCode may tell", async () => {
    const hooks = await open()
    for (const hook of Object.values(hooks)) {
      hook()
      hook({}, {})
      hook({ event: null }, null)
    }
    for (const type of ["session.created", "session.status", "message.updated", "permission.asked"]) {
      hooks.event({ event: { type, properties: {} } })
    }
  })
})

describe("a request", () => {
  const burst = (...prompts) => ask("POST", "/sessions/ses_a/prompts", { prompts, before: now() + 5000 })

  test("for something unknown is answered 501, no JSON object 400, too much 413", async () => {
    await open()
    for (const [method, path] of [
      ["GET", "/sessions"],
      ["GET", "/sessions/ses_a/prompts"],
      ["POST", "/"],
      ["DELETE", "/events"],
      ["POST", "/sessions/../prompts"],
    ]) {
      assert.deepEqual(await ask(method, path), { status: 501, body: { error: "no such request" } })
    }
    for (const body of ["", "{", "null", "[]", "7"]) assert.equal((await ask("POST", "/claim", body)).status, 400)
    assert.equal((await ask("POST", "/claim", " ".repeat(64_000_001))).status, 413)
  })

  test("with prompts goes to OpenCode as it is, each once the one before has its place", async () => {
    const said = []
    const hooks = await open()
    client.session.promptAsync = async ({ path, body }) => {
      said.push(`${path.id} gets ${body.messageID}`)
      setImmediate(() => {
        said.push(`${body.messageID} has its place`)
        prompted(hooks, path.id, body.messageID)
      })
      return {}
    }
    const { body } = await burst({ messageID: "msg_1", parts: [{ text: "grüße 🙂" }] }, { messageID: "msg_2" })
    assert.deepEqual(body, { accepted: 2 })
    assert.deepEqual(said, ["ses_a gets msg_1", "msg_1 has its place", "ses_a gets msg_2", "msg_2 has its place"])
  })

  test("that OpenCode does not take, or too late, or while the session asks its user, ends there", async () => {
    const hooks = await open()
    const tried = []
    client.session.promptAsync = async ({ body }) => {
      tried.push(body.messageID)
      if (body.messageID === "msg_bad") return { error: { data: { message: "bad" } }, response: { status: 400 } }
      prompted(hooks, "ses_a", body.messageID)
      return {}
    }
    const bad = await burst({ messageID: "msg_1" }, { messageID: "msg_bad" }, { messageID: "msg_3" })
    assert.deepEqual(bad.body, { accepted: 1, refused: { status: 400, error: "bad" } })
    assert.deepEqual(tried, ["msg_1", "msg_bad"])

    const late = await ask("POST", "/sessions/ses_a/prompts", { prompts: [{ messageID: "msg_4" }], before: 1 })
    assert.equal(late.body.refused.status, 408)
    const note = await burst({ messageID: NOTE, noReply: true })
    assert.deepEqual(note.body.refused, { status: 409, error: "it is busy" })
    happens(hooks, "question.asked", "ses_a", { id: "ask_1" })
    const waiting = await burst({ messageID: "msg_5" })
    assert.deepEqual(waiting.body.refused, { status: 409, error: "it is waiting" })
    assert.equal(tried.length, 2)
  })

  test("is answered though OpenCode fails", async () => {
    await open()
    client.session.promptAsync = () => Promise.reject(new Error("no"))
    assert.deepEqual(await burst({ messageID: "msg_1" }), { status: 500, body: { error: "Error: no" } })
  })
})

describe("the file", () => {
  const text = readFileSync(SOURCE, "utf8")

  test("is one that a person reads in one go, and needs nothing else", () => {
    assert.ok(text.split("\n").length < 251, `${text.split("\n").length - 1} lines`)
    assert.doesNotMatch(text, /^\s*import\b|\brequire\(|\bimport\(/m)
  })

  test("is the half beside the server; its copy called window.js is the other", () => {
    assert.deepEqual(Object.keys(plugin), ["id", "server"])
  })
})
