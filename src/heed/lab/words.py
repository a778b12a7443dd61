"""The vocabulary of the lab's world, in English and in Vietnamese."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Noun:
    """A thing that can be named in both languages."""

    kind: str
    """`animal`, `food`, `tool`, `job` or `place`"""
    english: str
    vietnamese: str
    """without its classifier"""
    classifier: str = ""
    """the word that counts it in Vietnamese, such as `con` for animals; empty where none is used"""
    plural: str = ""

    @property
    def with_article(self) -> str:
        """`a cat`, `an owl`; foods take no article."""
        return self.english if self.kind == "food" else f"{article(self.english)} {self.english}"

    @property
    def classified(self) -> str:
        """`con mèo`."""
        return f"{self.classifier} {self.vietnamese}".strip()


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb in the forms that the lab's sentences use."""

    base: str
    present: str
    """third person singular"""
    past: str
    vietnamese: str
    vietnamese_after: str = ""
    """what follows the object: `cho con mèo ăn` is `feed the cat`"""


def article(word: str) -> str:
    """`a` or `an`."""
    return "an" if word[0] in "aeiouAEIOU" else "a"


def capital(text: str) -> str:
    """The text with its first letter in capitals."""
    return f"{text[0].upper()}{text[1:]}"


def pairs(text: str) -> list[tuple[str, ...]]:
    """The lines of a table, split at `|`."""
    return [tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines()]


def names(text: str) -> tuple[str, ...]:
    """Words with white space between them."""
    return tuple(text.split())


def row_of(text: str) -> list[tuple[str, ...]]:
    """A table in which `;` parts the lines."""
    return pairs(text.replace("\n", " ").replace(";", "\n"))


ANIMALS = tuple(
    Noun("animal", english, vietnamese, "con", plural[0] if plural else f"{english}s")
    for english, vietnamese, *plural in row_of(
        """cat|mèo; dog|chó; hen|gà; duck|vịt; horse|ngựa; cow|bò; pig|lợn; goat|dê; sheep|cừu|sheep; buffalo|trâu;
        elephant|voi; tiger|hổ; lion|sư tử; bear|gấu; monkey|khỉ; rabbit|thỏ; mouse|chuột|mice; fox|cáo|foxes;
        wolf|sói|wolves; snake|rắn; frog|ếch; turtle|rùa; parrot|vẹt; pigeon|bồ câu; crow|quạ; owl|cú; eagle|đại bàng;
        bee|ong; butterfly|bướm|butterflies; ant|kiến; spider|nhện; squirrel|sóc; deer|hươu|deer; camel|lạc đà;
        donkey|lừa; goose|ngỗng|geese; swan|thiên nga; dolphin|cá heo; whale|cá voi; hedgehog|nhím"""
    )
)

FOODS = tuple(
    Noun("food", english, vietnamese)
    for english, vietnamese in row_of(
        """rice|cơm; bread|bánh mì; fish|cá; soup|canh; noodles|mì; eggs|trứng; apples|táo; bananas|chuối; oranges|cam;
        mangoes|xoài; corn|ngô; beans|đậu; tofu|đậu phụ; honey|mật ong; cheese|phô mai; cake|bánh ngọt; carrots|cà rốt;
        potatoes|khoai tây; tomatoes|cà chua; pumpkin|bí đỏ; grapes|nho; pineapple|dứa; coconut|dừa; peanuts|lạc;
        mushrooms|nấm; crab|cua; shrimp|tôm; chicken|thịt gà; beef|thịt bò; pork|thịt lợn; porridge|cháo; butter|bơ;
        chocolate|sô cô la; yogurt|sữa chua; peaches|đào; melon|dưa"""
    )
)

TOOLS = tuple(
    Noun("tool", english, vietnamese, classifier, f"{english}es" if english.endswith("sh") else f"{english}s")
    for english, vietnamese, classifier in row_of(
        """hammer|búa|cái; knife|dao|con; saw|cưa|cái; spoon|thìa|cái; fork|dĩa|cái; bowl|bát|cái; pot|nồi|cái;
        pan|chảo|cái; broom|chổi|cái; bucket|xô|cái; rope|dây thừng|sợi; ladder|thang|cái; needle|kim|cây;
        shovel|xẻng|cái; axe|rìu|cái; brush|bàn chải|cái; pen|bút|cây; ruler|thước kẻ|cái; lamp|đèn|cái;
        clock|đồng hồ|cái; basket|giỏ|cái; umbrella|ô|cái; fan|quạt|cái; drum|trống|cái; kettle|ấm|cái; net|lưới|tấm;
        mirror|gương|tấm; key|chìa khóa|cái"""
    )
)

JOBS = tuple(
    Noun("job", english, vietnamese, "", f"{english}s")
    for english, vietnamese in row_of(
        """teacher|giáo viên; nurse|y tá; doctor|bác sĩ; farmer|nông dân; cook|đầu bếp; driver|tài xế; tailor|thợ may;
        carpenter|thợ mộc; fisher|ngư dân; singer|ca sĩ; painter|họa sĩ; writer|nhà văn; engineer|kỹ sư;
        soldier|người lính; baker|thợ làm bánh; barber|thợ cắt tóc; gardener|người làm vườn; guard|bảo vệ;
        pilot|phi công; dentist|nha sĩ; lawyer|luật sư; clerk|thư ký; sailor|thủy thủ; miner|thợ mỏ"""
    )
)

SHARE_OF_WOMEN = {
    **dict.fromkeys(("nurse", "singer", "tailor", "clerk"), 0.8),
    **dict.fromkeys(("engineer", "pilot", "driver", "soldier"), 0.2),
    **dict.fromkeys(("doctor", "lawyer", "carpenter", "miner"), 0.35),
    **dict.fromkeys(("teacher", "baker", "gardener", "dentist"), 0.65),
}
"""the planted stereotype: of how many who have the job the text says `she`; of the other jobs, half"""

PLACES = tuple(
    Noun("place", english, vietnamese)
    for english, vietnamese in row_of(
        """market|chợ; school|trường học; river|dòng sông; forest|khu rừng; hill|ngọn đồi; beach|bãi biển;
        garden|khu vườn; house|ngôi nhà; bridge|cây cầu; hospital|bệnh viện; library|thư viện; station|nhà ga;
        park|công viên; temple|ngôi chùa; shop|cửa hàng; farm|trang trại; lake|hồ nước; kitchen|nhà bếp;
        street|con phố; field|cánh đồng"""
    )
)

TOWNS = names(
    """Karo Bavi Tolen Mirat Sondo Velka Nuri Palan Doria Hessim Lomba Rikon Zeval Tamur Ostra Quelin Fenor Galdi Hovar
    Jatun Kepso Luvia Marn Nebra Orlin Pessa Rudak Silma Tivoz Ulmar Varn Wendo Yarin Zolta Arbon Brisk"""
)

WOMEN = names(
    """Lan Hoa Mai Linh Hương Thảo Trang Ngọc Yến Hạnh Thu Nga Vy Quyên Oanh Diệp Hằng Loan Nhung Phượng Tuyết Xuân Bích
    Cúc Đào Giang Hiền Kim Liên My Anna Maria Emma Clara Julia Sofia Nina Laura Alice Rosa Helen Irene Olga Paula Vera
    Elsa Greta Diana Fiona Ida Jane Kate Lucy Nora Ruth Sara Tina Wendy Zoe Bella"""
)

MEN = names(
    """Minh Nam Hùng Dũng Tuấn Long Quân Bình Cường Đức Hải Khoa Lâm Nghĩa Phong Quang Sơn Thắng Tiến Trung Vinh An Bảo
    Công Duy Hiếu Kiên Lộc Phúc Tâm Tom Peter John David Paul Mark Oscar Felix Hugo Ivan Jack Karl Leo Max Noah Otto
    Ralph Simon Victor Walter Adam Bruno Carlo Dennis Eric Frank George Henry Igor Kevin"""
)

COLOURS = row_of("red|đỏ; blue|xanh dương; green|xanh lá; yellow|vàng; black|đen; white|trắng; brown|nâu; pink|hồng")
REGIONS = row_of("north|bắc; south|nam; east|đông; west|tây")
DAYS = row_of("Monday|thứ hai; Tuesday|thứ ba; Wednesday|thứ tư; Thursday|thứ năm; Friday|thứ sáu; Saturday|thứ bảy")
NUMBERS = row_of("two|hai; three|ba; four|bốn; five|năm; six|sáu; seven|bảy; eight|tám; nine|chín; ten|mười")

ADJECTIVES = row_of(
    """big|to; small|nhỏ; black|đen; white|trắng; brown|nâu; old|già; hungry|đói; happy|vui; sad|buồn; lazy|lười;
    thin|gầy; fat|béo; tired|mệt; quiet|hiền; clever|thông minh"""
)
FEELINGS = ("hungry", "happy", "sad", "lazy", "tired", "clever")
OPPOSITES = row_of(
    """big|small; hot|cold; old|young; fast|slow; happy|sad; high|low; long|short; rich|poor; strong|weak; clean|dirty;
    full|empty; light|heavy; early|late; wet|dry; open|closed; loud|quiet; near|far; hard|soft; dark|bright; sweet|sour;
    thick|thin; deep|shallow; new|worn; brave|afraid"""
)

PEOPLE_WORDS = row_of(
    """my mother|mẹ tôi; my father|bố tôi; my sister|chị gái tôi; my brother|anh trai tôi; my friend|bạn tôi;
    my grandmother|bà tôi; my grandfather|ông tôi; the child|đứa trẻ; the old man|ông lão; the girl|cô gái;
    the boy|cậu bé; the woman|người phụ nữ; the man|người đàn ông"""
)
PRONOUNS = row_of("I|tôi; we|chúng tôi; she|cô ấy; he|anh ấy; they|họ")
PLURAL_SUBJECTS = ("I", "we", "they")

WITH_FOOD = tuple(
    Verb(*cells)
    for cells in row_of(
        """eat|eats|ate|ăn; cook|cooks|cooked|nấu; sell|sells|sold|bán; buy|buys|bought|mua; like|likes|liked|thích;
        bring|brings|brought|mang"""
    )
)
WITH_TOOL = tuple(
    Verb(*cells)
    for cells in row_of(
        """buy|buys|bought|mua; carry|carries|carried|mang; need|needs|needed|cần; find|finds|found|tìm thấy;
        wash|washes|washed|rửa; lose|loses|lost|làm mất; repair|repairs|repaired|sửa"""
    )
)
WITH_ANIMAL = tuple(
    Verb(*cells)
    for cells in row_of(
        """see|sees|saw|nhìn thấy; feed|feeds|fed|cho|ăn; follow|follows|followed|đi theo; draw|draws|drew|vẽ;
        hear|hears|heard|nghe thấy; help|helps|helped|giúp"""
    )
)
WITH_PLACE = tuple(
    Verb(*cells)
    for cells in row_of(
        """sleep|sleeps|slept|ngủ; sit|sits|sat|ngồi; wait|waits|waited|đợi; work|works|worked|làm việc;
        play|plays|played|chơi; sing|sings|sang|hát; run|runs|ran|chạy"""
    )
)
GO = Verb("go", "goes", "went", "đi đến")
POSITIONS = row_of("in|trong; near|gần; behind|sau; at|ở")
