"""The fault harness behind `tools/chaos`: a real agent and a real broker, hurt on purpose, and a ledger of what that cost.

    schedule, messages          what is going to happen, and what is sent: pure functions of the seed
    wire, ledger, verdict       MQTT packets read off the line; what they prove; which promise is broken
    subject, broker, link       the agent, mosquitto, and the line between them, each of which can be hurt
    bundles, sender, web        the functions under trial and who feeds them; ear is who listens at the far end
    disk, wall_clock            a small file system to fill, a wall clock to turn
    wrongs, trial               each fault carried out; a run from its start on
    aftermath, letters          what is waited for when the faults are over; the dead letters
    report                      how it is told

What the agent promises is read off the line between agent and broker, for a broker that is killed loses messages of its own.
"""
