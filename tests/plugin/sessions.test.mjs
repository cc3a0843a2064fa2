// What the plugin tells of the sessions in its process, as OpenCode's events come.

import assert from "node:assert/strict"
import { beforeEach, describe, test } from "node:test"

import { Sessions } from "../../src/agenthub_adapters/plugin/agenthub.js"

const MESSAGE = "msg_0123456789abAgHubAAAAAAAAA"
const NOTE = "msg_0123456789abAgTldAAAAAAAAA"
const TYPED = [{ type: "text" }]

let told, clock, later, sessions

beforeEach(() => {
  told = []
  clock = 1000
  later = []
  sessions = new Sessions(
    (event, object) => told.push([event, object]),
    () => clock,
    (act) => later.push(act),
  )
})

const happens = (type, sessionID, more) => sessions.handle({ type, properties: { sessionID, ...more } })
const status = (id, type) => happens("session.status", id, { status: { type } })
const created = (id, parentID) => happens("session.created", id, { info: { id, parentID } })
const step = (id, parentID, more) =>
  happens("message.updated", "ses_a", {
    info: { id, parentID, role: "assistant", cost: 0.25, tokens: tokens(100, 10), ...more },
  })
const tokens = (input, output) => ({ total: input + output, input, output, reasoning: 1, cache: { read: 2, write: 3 } })
const events = (wanted) => told.filter(([event]) => event === wanted).map(([, object]) => object)
const states = () => events("session").map(({ state }) => state)
const last = () => events("session").at(-1)

describe("a session lives here", () => {
  test("once it was created", () => {
    created("ses_a")
    assert.deepEqual(sessions.list(), [{ id: "ses_a", state: "idle", used: 0, opened: 1000, shown: null }])
  })

  test("once it was prompted", () => {
    sessions.prompted("ses_a", "msg_1", TYPED)
    assert.equal(sessions.list()[0].id, "ses_a")
  })

  test("once it came on screen", () => {
    sessions.show("ses_a")
    assert.deepEqual(sessions.list(), [{ id: "ses_a", state: "idle", used: 0, opened: 1000, shown: true }])
  })

  test("but not because its title changed or somebody aborted nothing", () => {
    happens("session.updated", "ses_a", { info: {} })
    status("ses_a", "idle")
    assert.deepEqual(sessions.list(), [])
  })

  test("until it is deleted, which is told of once", () => {
    created("ses_a")
    happens("session.deleted", "ses_a", { info: {} })
    happens("session.deleted", "ses_a", { info: {} })
    assert.deepEqual(events("gone"), [{ id: "ses_a" }])
    assert.deepEqual(sessions.list(), [])
  })

  test("and a subagent's session does not", () => {
    created("ses_child", "ses_a")
    sessions.prompted("ses_child", "msg_1", TYPED)
    status("ses_child", "busy")
    sessions.show("ses_child")
    assert.deepEqual(sessions.list(), [])
  })

  test("nor does one that turns out to be a subagent's later", () => {
    sessions.prompted("ses_child", "msg_1", TYPED)
    happens("session.updated", "ses_child", { info: { parentID: "ses_a" } })
    assert.deepEqual(sessions.list(), [])
    assert.deepEqual(events("gone"), [{ id: "ses_child" }])
  })

  test("as long as it is among the thousand used last", () => {
    status("ses_busy", "busy")
    sessions.show("ses_seen")
    for (let n = 0; n < 1000; n++) created(`ses_${n}`)
    const ids = sessions.list().map(({ id }) => id)
    assert.equal(ids.length, 1000)
    assert.ok(ids.includes("ses_busy") && ids.includes("ses_seen") && ids.includes("ses_999"))
    assert.ok(!ids.includes("ses_0"))
  })
})

describe("its state", () => {
  test("is busy from the prompt to the end of the turn", () => {
    sessions.prompted("ses_a", "msg_1", TYPED)
    status("ses_a", "busy")
    status("ses_a", "retry")
    assert.equal(sessions.stateOf("ses_a"), "busy")
    status("ses_a", "idle")
    assert.deepEqual(states(), ["busy", "idle"])
  })

  test("is idle again if no turn follows on a prompt", () => {
    sessions.prompted("ses_a", "msg_1", TYPED)
    clock += 2000
    for (const act of later) act()
    assert.deepEqual(states(), ["busy", "idle"])
  })

  test("stays idle through a note of the hub's, on which no turn follows", () => {
    sessions.prompted("ses_a", NOTE, TYPED)
    assert.equal(sessions.stateOf("ses_a"), "idle")
  })

  for (const [asked, answered] of [
    ["permission.asked", "permission.replied"],
    ["question.asked", "question.replied"],
    ["question.asked", "question.rejected"],
  ]) {
    test(`is waiting from ${asked} to ${answered}`, () => {
      status("ses_a", "busy")
      happens(asked, "ses_a", { id: "ask_1" })
      happens(answered, "ses_a", { requestID: "ask_1" })
      assert.deepEqual(states(), ["busy", "waiting", "busy"])
    })
  }

  test("is waiting until the last of several questions is answered", () => {
    status("ses_a", "busy")
    happens("permission.asked", "ses_a", { id: "ask_1" })
    happens("permission.asked", "ses_a", { id: "ask_2" })
    happens("permission.replied", "ses_a", { requestID: "ask_1" })
    assert.equal(sessions.stateOf("ses_a"), "waiting")
  })

  test("waits no more once the turn was aborted, though nobody answered", () => {
    status("ses_a", "busy")
    happens("permission.asked", "ses_a", { id: "ask_1" })
    status("ses_a", "idle")
    assert.equal(sessions.stateOf("ses_a"), "idle")
  })

  test("is waiting while a subagent of a subagent asks", () => {
    created("ses_child", "ses_a")
    created("ses_grandchild", "ses_child")
    status("ses_a", "busy")
    happens("permission.asked", "ses_grandchild", { id: "ask_1" })
    assert.equal(sessions.stateOf("ses_a"), "waiting")
    status("ses_grandchild", "idle")
    assert.equal(sessions.stateOf("ses_a"), "busy")
  })

  test("is idle where nothing is known", () => assert.equal(sessions.stateOf("ses_x"), "idle"))
})

describe("used", () => {
  const usedBy = (id, parts) => {
    sessions.prompted("ses_a", id, parts)
    return sessions.list()[0].used
  }

  test("is when its user wrote", () => assert.equal(usedBy("msg_1", TYPED), 1000))
  test("is not when a message came", () => assert.equal(usedBy(MESSAGE, TYPED), 0))
  test("is not when the hub left a note", () => assert.equal(usedBy(NOTE, TYPED), 0))
  test("is not when OpenCode prompted", () => assert.equal(usedBy("msg_1", [{ synthetic: true }]), 0))
  test("is when its user wrote beside what OpenCode made up", () => {
    assert.equal(usedBy("msg_1", [{ synthetic: true }, ...TYPED]), 1000)
  })
})

describe("the screen", () => {
  test("is nowhere until a window says so", () => {
    created("ses_a")
    assert.equal(sessions.list()[0].shown, null)
    sessions.show(null)
    assert.equal(last().shown, false)
  })

  test("shows one session at a time, and each opening is noted", () => {
    sessions.show("ses_a")
    clock = 2000
    sessions.show("ses_b")
    clock = 3000
    sessions.show("ses_a")
    const [b, a] = sessions.list()
    assert.deepEqual([b.id, b.shown, b.opened], ["ses_b", false, 2000])
    assert.deepEqual([a.id, a.shown, a.opened], ["ses_a", true, 3000])
  })

  test("says the same twice, and it is no second opening", () => {
    sessions.show("ses_a")
    clock = 2000
    sessions.show("ses_a")
    assert.equal(told.length, 1)
  })
})

describe("a turn", () => {
  const turn = () => {
    assert.equal(events("turn").length, 1)
    return events("turn")[0]
  }

  test("is told of when it has ended, with all that it has cost", () => {
    sessions.prompted("ses_a", "msg_1", TYPED)
    clock = 1100
    status("ses_a", "busy")
    step("msg_2", "msg_1", { tokens: tokens(0, 0) })
    step("msg_2", "msg_1")
    step("msg_3", "msg_1", { tokens: tokens(200, 20) })
    clock = 1500
    status("ses_a", "idle")
    assert.deepEqual(turn(), {
      id: "ses_a",
      began: 1100,
      ended: 1500,
      prompts: ["msg_1"],
      tokens: { input: 300, output: 30, reasoning: 2, cache: { read: 4, write: 6 } },
      cost: 0.5,
      error: null,
    })
    assert.equal(told.at(-2)[1].state, "idle")
  })

  test("is about all prompts that came before its last answer, in order", () => {
    sessions.prompted("ses_a", "msg_1", TYPED)
    status("ses_a", "busy")
    step("msg_2", "msg_1")
    sessions.prompted("ses_a", MESSAGE, TYPED)
    sessions.prompted("ses_a", "msg_3", TYPED)
    step("msg_4", "msg_3")
    status("ses_a", "idle")
    assert.deepEqual(turn().prompts, ["msg_1", MESSAGE, "msg_3"])
  })

  test("leaves to the next what came too late for it", () => {
    sessions.prompted("ses_a", "msg_1", TYPED)
    status("ses_a", "busy")
    step("msg_2", "msg_1")
    sessions.prompted("ses_a", "msg_3", TYPED)
    status("ses_a", "idle")
    assert.deepEqual(turn().prompts, ["msg_1"])
    status("ses_a", "busy")
    step("msg_4", "msg_3")
    status("ses_a", "idle")
    assert.deepEqual(events("turn")[1].prompts, ["msg_3"])
  })

  test("is about the notes that were left before it", () => {
    sessions.prompted("ses_a", NOTE, TYPED)
    sessions.prompted("ses_a", "msg_1", TYPED)
    status("ses_a", "busy")
    step("msg_2", "msg_1")
    status("ses_a", "idle")
    assert.deepEqual(turn().prompts, [NOTE, "msg_1"])
  })

  test("that was aborted says so once, and its belated last word is not the next turn's", () => {
    sessions.prompted("ses_a", "msg_1", TYPED)
    status("ses_a", "busy")
    step("msg_2", "msg_1")
    happens("session.error", "ses_a", { error: { name: "MessageAbortedError" } })
    status("ses_a", "idle")
    assert.equal(turn().error, "MessageAbortedError")
    sessions.prompted("ses_a", "msg_3", TYPED)
    status("ses_a", "busy")
    step("msg_2", "msg_1", { error: { name: "MessageAbortedError" } })
    step("msg_4", "msg_3")
    status("ses_a", "idle")
    status("ses_a", "idle")
    const [, next] = events("turn")
    assert.deepEqual([next.prompts, next.error, next.tokens.input], [["msg_3"], null, 100])
  })

  test("that failed before the model was asked is about all that was said", () => {
    sessions.prompted("ses_a", "msg_1", TYPED)
    status("ses_a", "busy")
    happens("session.error", "ses_a", { error: { name: "UnknownError" } })
    status("ses_a", "idle")
    assert.deepEqual([turn().prompts, turn().error], [["msg_1"], "UnknownError"])
  })

  test("that went on after an error has none", () => {
    status("ses_a", "busy")
    step("msg_2", "msg_1", { error: { name: "ContextOverflowError" } })
    step("msg_3", "msg_1")
    status("ses_a", "idle")
    assert.equal(turn().error, null)
  })

  test("may be a compaction, which is told of too", () => {
    status("ses_a", "busy")
    step("msg_2", "msg_of_the_compaction")
    happens("session.compacted", "ses_a")
    status("ses_a", "idle")
    assert.deepEqual(events("compacted"), [{ id: "ses_a" }])
    assert.deepEqual([turn().prompts, turn().tokens.input], [[], 100])
  })

  test("is not a command of the user's shell", () => {
    status("ses_a", "busy")
    step("msg_2", "msg_1", { tokens: tokens(0, 0) })
    status("ses_a", "idle")
    assert.deepEqual(events("turn"), [])
  })

  test("is not what a session says that was copied from another", () => {
    created("ses_a")
    step("msg_2", "msg_1")
    assert.deepEqual(events("turn"), [])
  })
})

test("nothing is told twice, and what is of no interest not at all", () => {
  status("ses_a", "busy")
  status("ses_a", "busy")
  sessions.handle({ type: "server.connected", properties: {} })
  sessions.handle({ type: "session.error", properties: {} })
  sessions.handle({ type: "lsp.updated" })
  assert.equal(told.length, 1)
})
