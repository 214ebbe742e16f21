"""The English words by which two near questions differ in meaning: what `matching` looks up."""

from __future__ import annotations


def _split(text: str) -> list[str]:
    return text.split()


def _table(text: str) -> dict[str, str]:
    """`canonical: word word; ...` as word -> canonical."""
    table: dict[str, str] = {}
    for entry in text.split(";"):
        name, _, words = entry.partition(":")
        table.update(dict.fromkeys([name.strip(), *words.split()], name.strip()))
    return table


MONTHS = _table(
    """
    m1: january jan; m2: february feb; m3: march mar; m4: april apr; m5: may; m6: june jun; m7: july jul; m8:
    august aug; m9: september sep sept; m10: october oct; m11: november nov; m12: december dec
    """
)
WEEKDAYS = _table(
    """
    monday: mon mondays; tuesday: tue tues tuesdays; wednesday: wed wednesdays; thursday: thu thurs thursdays;
    friday: fri fridays; saturday: sat saturdays; sunday: sun sundays; weekend: weekends; weekday: weekdays
    """
)
WHEN = _table(
    """
    today; tomorrow; yesterday; tonight; now: currently; last: previous prior past; next: upcoming following
    coming; this; morning: mornings; afternoon: afternoons; evening: evenings; night: nights; noon: midday;
    midnight; spring; summer; autumn: fall; winter; easter; christmas: xmas; q1; q2; q3; q4; h1; h2
    """
)
PERIODS = _table(
    """
    hour: hours hourly; day: days daily; week: weeks weekly; biweekly: fortnightly fortnight; month: months
    monthly; quarter: quarters quarterly; year: years yearly annual annually annum; minute: minutes; second:
    seconds; decade: decades; century: centuries
    """
)
NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        _split(
            """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty
    """
        )
    )
} | {
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
    "billion": "1000000000",
    "dozen": "12",
    "half": "0.5",
    "once": "x1",
    "twice": "x2",
    "thrice": "x3",
    "double": "x2",
    "triple": "x3",
    "single": "1",
    "both": "2",
}
ORDINALS = {
    word: f"{value}th"
    for value, word in enumerate(
        _split("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), start=1
    )
}
UNITS = _table(
    """
    usd: $ dollar dollars us$; eur: € euro euros; gbp: £ pound pounds sterling; jpy: ¥ yen; inr: ₹ rupee rupees;
    chf: francs franc; cent: cents; %: percent pct percentage; k: grand; kg: kilo kilos kilogram kilograms; g:
    gram grams; lb: lbs; km: kilometre kilometres kilometer kilometers; mi: mile miles; m: metre metres meter
    meters; cm: centimetre centimetres; gb: gigabyte gigabytes; mb: megabyte megabytes; tb: terabyte terabytes;
    degree: degrees celsius fahrenheit
    """
)
NEGATIONS = frozenset(
    _split(
        """
    not no never none neither nor nobody nothing nowhere without cannot cant wont dont doesnt didnt isnt arent
    wasnt werent shouldnt couldnt wouldnt hasnt havent hadnt mustnt neednt aint unable hardly barely except
    excluding unless non lacking lack lacks stop prohibited forbidden
    """
    )
)
QUANTIFIERS = _table(
    """
    all: every each everyone everybody everything always entire whole; any: anyone anybody anything ever; some:
    someone somebody something sometimes; only: just solely exclusively; few: fewer; many: much lots; most:
    mostly majority; minimum: min least lowest smallest minimal cheapest earliest shortest; maximum: max highest
    largest biggest maximal longest latest greatest
    """
)
# Words that turn a question round. Each side of a pair is one canonical word; synonyms share it.
DIRECTIONS = _table(
    """
    more: increase increases increased increasing raise raised rise above over exceed exceeds exceeding higher
    larger bigger greater longer older gain growth grow; less: decrease decreases decreased decreasing reduce
    reduced reduction lower below under smaller shorter younger loss shrink cut decline; before: earlier; after:
    later afterwards; until: till; since; during; enable: activate activated enabled enabling activating;
    disable: deactivate deactivated disabled disabling deactivating; with; include: including includes included;
    exclude: excluded excludes; upgrade: upgrading upgraded; downgrade: downgrading downgraded; import:
    importing imported; export: exporting exported; upload: uploading; download: downloading; buy: buying
    purchase purchasing bought; sell: selling sold; send: sending sent; receive: receiving received; incoming:
    inbound; outgoing: outbound; internal: internally; external: externally; login: signin; logout: signout;
    public; private; approve: approved approval accept accepted accepting; reject: rejected rejection decline
    declined deny denied; allowed: allow allows permitted permit; forbid: ban banned; join: joining hire hiring
    hired; leave: leaving resign resigning; employee: employees; employer: employers; tenant: tenants; landlord:
    landlords; customer: customers client clients; supplier: suppliers vendor vendors; domestic; international:
    abroad overseas foreign; manual: manually; automatic: automatically auto; gross; net; paid; unpaid; full;
    part; partial: partially; old; new; front; back; left; right; inside: indoors; outside: outdoors; online;
    offline; remote: remotely; onsite; input; output; read; write; lock: locked; unlock: unlocked; encrypt:
    encrypted; decrypt: decrypted; credit; debit; deposit; withdraw: withdrawal withdrawals; adult: adults;
    child: children; open: opening; close: closing closed; start: starting begin begins starts; end: ending ends
    finish; add: adding added; remove: removing removed delete deleting deleted; mandatory: required compulsory;
    optional: voluntary; success: successful succeed; failure: failed fail fails; male; female; mother; father;
    minor; major; permanent; temporary: interim; up; down; arrival: arrive arrives arriving; departure: depart
    departs departing
    """
)
AUXILIARIES = frozenset(
    _split(
        """
    is are am was were do does did can could may might must shall should will would has have had isn't aren't don't
    doesn't didn't can't couldn't won't wouldn't shouldn't hasn't haven't hadn't cannot
    """
    )
)
BEFORE = frozenset(_split("and so also but or please hi hello hey then ok okay well"))
PREPOSITIONS = frozenset(_split("in of for on at by to from with over under between before after than as via per"))
DEGREES = frozenset(_split("much long high big large far old fast often soon deep wide heavy expensive good bad"))
OPENERS = frozenset(
    _split(
        """
    a an the what what's whats which who who's whose whom when when's where where's why how how's how'd is are
    am was were be been being do does did don't doesn't didn't isn't aren't wasn't weren't can can't could
    couldn't cannot will won't would wouldn't shall should shouldn't may might must has have had haven't hasn't
    hadn't having if in on at by for from to of with without within during after before since until about as and
    or but so then than that this these those there there's here it it's its i i'm i'd i've i'll we we're we'd
    we've we'll you you're you'd you've your yours he she they them their our ours us my mine me please tell
    show give explain describe list find name summarise summarize compare translate write draft help let let's
    need want looking look any anyone anything some someone something every everyone each all both no not never
    hi hello hey dear thanks thank okay ok yes also could've out up off over under between per via let know say
    said does anybody somebody regarding concerning under whether while because once only just another other
    same many much more most less least few such got get gets getting does exactly currently today tomorrow
    yesterday tonight last next now cost costs price prices pricing amount number date time day count total sum
    value rate fee fees provide state identify calculate compute determine check confirm specify define outline
    clarify remind repeat report cancel return change update reset create delete remove add set use using open
    close start stop send receive buy order book pay paid charge refund submit request apply contact call email
    ask make made take above sales profit revenue income travel server servers invoice invoices contract contracts
    office project projects meeting meetings report reports account accounts customer customers employee employees
    product products order orders payment payments support training budget budgets payroll long far often old new big
    high low good best worst better
    """
    )
)
# Words that carry no meaning of their own: one question may have them and the other not.
FILLERS = frozenset(
    _split(
        """
    a an the is are am was were be been being do does did will would shall should could can may might must has
    have had having of to in on at by for from as and or so then than that there here it its i i'm i'd i've i'll
    we we're we'd we've we'll you you're you'd you've your he she they them their our us my me please tell show
    give explain describe know say exactly actually really simply quite also ever hi hello hey thanks thank
    kindly quickly let like want need needed needs get got howmany many much able whom come find found list high
    what what's whats which who who's when when's where where's why how how's if about into out possible way
    currently basically again one's someone person people we're going
    want's wondering wonder question answer help mean means remind one
    """
    )
)
SYNONYMS = _table(
    """
    cost: costs price prices priced pricing fee fees charge charges charged rate rates tariff amount expensive
    pay paid payable; plan: plans tier tiers package packages subscription subscriptions; cancel: cancelling
    canceling cancellation terminate terminating termination; holiday: holidays vacation vacations leave;
    refund: refunds refunded reimbursement reimburse reimbursed; rule: rules policy policies guideline
    guidelines; staff: employee employees worker workers colleague colleagues; user: users account accounts;
    phone: telephone; contact: reach call; email: e-mail mail; deadline; due: fall falls fell; deliver: delivery
    delivered ship shipping shipped shipment; change: changing modify modifying alter update updating edit editing; fix:
    repair repairing resolve; buy: purchase purchasing order; company: firm business organisation organization; begin:
    start starts starting; finish: end ends ending; hour: hours; opening: open; address: located location;
    duration: long length last lasts; notice; period; warranty: guarantee; boss: manager supervisor manage manages
    managed; earn: salary wage wages earnings; lead: led leads leading; publish: publication; take: took taken;
    make: made makes; remove:
    delete deleting; reset: restore recover; password: passcode; bill: invoice invoices bills billing; permit:
    allow allowed permitted; apply: application; register: registration enrol enroll signup; document: documents
    file files paper papers; car: vehicle; home: house; big: large; quick: fast; max: maximum; min: minimum;
    require: required requires requirement requirements; available: offered offer; include: included
    includes including contain contains; receive: received get; obtain; request: ask; submit: send file; method:
    methods way ways; limit: limits cap quota; count: number; size: big large; old: age
    """
)
