"""Word lists of the training data; all compiled by hand for this project.

Flat tables only. `KINDS` maps a plural kind to its canonical list (answers use the first N).
"""
# ruff: noqa: SIM905 - tables of words read better as text

KINDS: dict[str, list[str]] = {
    k: v.split(", ")
    for k, v in {
        "animals": "cat, dog, horse, cow, lion, tiger, bear, rabbit, fox, wolf, mouse, "
        "elephant, monkey, "
        "zebra, giraffe, goat, sheep, pig, deer, camel, kangaroo, panda, "
        "squirrel, hedgehog, otter, donkey",
        "fruits": "apple, banana, orange, grape, pear, cherry, mango, lemon, peach, plum, "
        "kiwi, melon, "
        "strawberry, pineapple, blueberry, raspberry, apricot, coconut",
        "vegetables": "carrot, potato, tomato, onion, pepper, cabbage, spinach, broccoli, pea, "
        "bean, "
        "cucumber, lettuce, garlic, pumpkin, celery, leek",
        "colors": "red, blue, green, yellow, orange, purple, pink, black, white, brown, "
        "grey, gold, silver",
        "birds": "eagle, owl, robin, sparrow, crow, swan, duck, parrot, penguin, pigeon, "
        "falcon, goose, "
        "turkey, heron, stork",
        "fish": "salmon, tuna, trout, cod, shark, carp, herring, pike, eel, sardine",
        "insects": "ant, bee, fly, beetle, wasp, butterfly, moth, cricket, mosquito, "
        "ladybug, grasshopper",
        "trees": "oak, pine, maple, birch, willow, elm, cedar, ash, fir, beech, poplar",
        "flowers": "rose, tulip, daisy, lily, violet, orchid, poppy, sunflower, iris, daffodil",
        "countries": "France, Spain, Germany, Italy, Japan, Brazil, Canada, India, Egypt, "
        "Korea, China, "
        "Mexico, Peru, Kenya",
        "cities": "Paris, London, Berlin, Madrid, Rome, Tokyo, Seoul, Vienna, Cairo, Lima, "
        "Oslo, Athens, "
        "Delhi, Boston, Chicago",
        "drinks": "water, tea, coffee, juice, milk, soda, lemonade, cocoa, wine, beer",
        "foods": "bread, cheese, rice, pasta, soup, pizza, salad, egg, cake, butter, "
        "honey, sandwich, noodle",
        "desserts": "cake, pie, cookie, pudding, brownie, waffle, pancake, donut, muffin",
        "clothes": "shirt, pants, hat, coat, shoes, socks, dress, scarf, jacket, gloves, "
        "skirt, sweater, belt",
        "tools": "hammer, saw, drill, wrench, screwdriver, axe, shovel, rake, pliers, "
        "chisel, ladder",
        "body parts": "head, arm, leg, hand, foot, eye, ear, nose, mouth, knee, elbow, "
        "shoulder, finger, neck",
        "sports": "soccer, tennis, basketball, hockey, golf, swimming, baseball, rugby, "
        "boxing, skiing, "
        "volleyball, cycling",
        "instruments": "piano, guitar, violin, drum, flute, trumpet, harp, cello, clarinet, "
        "saxophone, banjo",
        "planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
        "shapes": "circle, square, triangle, rectangle, star, oval, diamond, hexagon, cube, cone",
        "vehicles": "car, bus, train, bike, truck, boat, plane, ship, tram, van, tractor, "
        "scooter, helicopter",
        "furniture": "table, chair, bed, sofa, desk, shelf, lamp, wardrobe, bench, stool, "
        "drawer, cupboard",
        "rooms": "kitchen, bedroom, bathroom, hall, attic, cellar, garage, office, pantry",
        "jobs": "teacher, doctor, baker, farmer, nurse, pilot, cook, painter, lawyer, "
        "plumber, writer, "
        "singer, driver, engineer, carpenter",
        "languages": "English, Spanish, French, German, Korean, Italian, Chinese, Japanese, "
        "Arabic, Hindi",
        "metals": "iron, gold, silver, copper, tin, zinc, lead, nickel, aluminum, steel",
        "seasons": "spring, summer, autumn, winter",
        "toys": "ball, doll, kite, puzzle, robot, blocks, yoyo, marble, teddy, drum",
        "pets": "dog, cat, hamster, parrot, goldfish, rabbit, turtle, guinea pig",
        "school subjects": "math, science, history, art, music, geography, biology, physics, "
        "chemistry",
        "family members": "mother, father, sister, brother, aunt, uncle, cousin, grandmother, "
        "grandfather",
        "names": "Anna, Ben, Clara, David, Emma, Felix, Grace, Henry, Iris, Jack, Kate, Leo",
        "school things": "pen, pencil, book, ruler, eraser, notebook, paper, glue, scissors, "
        "crayon",
        "weather words": "rain, snow, wind, sun, cloud, storm, fog, hail, thunder, lightning",
        "feelings": "happy, sad, angry, tired, scared, proud, bored, excited, calm, lonely",
        "kitchen things": "pot, pan, knife, fork, spoon, plate, cup, bowl, oven, kettle",
        "gemstones": "ruby, diamond, emerald, sapphire, pearl, opal, topaz, amber",
        "numbers": "one, two, three, four, five, six, seven, eight, nine, ten",
    }.items()
}

KIND_ALIASES: dict[str, list[str]] = {
    "colors": ["colours"],
    "foods": ["things to eat", "kinds of food", "food items", "dishes"],
    "drinks": ["beverages", "things to drink"],
    "clothes": ["pieces of clothing", "things to wear", "clothing items", "garments"],
    "instruments": ["musical instruments"],
    "jobs": ["professions", "occupations", "careers"],
    "vehicles": ["means of transport"],
    "insects": ["bugs"],
    "desserts": ["sweets"],
    "vegetables": ["veggies"],
    "names": ["first names", "people's names"],
    "school things": ["school supplies", "things you find in a school bag"],
    "kitchen things": ["kitchen items", "things in a kitchen", "kitchen tools", "utensils"],
    "feelings": ["emotions", "moods"],
    "weather words": ["kinds of weather"],
    "gemstones": ["gems", "precious stones"],
    "family members": ["relatives"],
    "school subjects": ["subjects at school"],
    "pets": ["house pets"],
    "countries": ["nations"],
    "furniture": ["pieces of furniture", "furniture items"],
    "rooms": ["rooms in a house", "rooms of a house"],
    "body parts": ["parts of the body"],
    "tools": ["hand tools"],
    "animals": ["mammals", "creatures"],
    "sports": ["kinds of sport"],
    "shapes": ["geometric shapes"],
    "languages": ["spoken languages"],
    "planets": ["planets of the solar system"],
    "metals": ["kinds of metal"],
    "trees": ["kinds of trees"],
    "fruits": ["kinds of fruit", "fruit"],
    "toys": ["children's toys"],
    "birds": ["kinds of birds"],
    "fish": ["kinds of fish"],
    "flowers": ["kinds of flowers"],
}

EXTRA_WORDS = """
able about above across action actor adult adventure after again age agree air airport album
alive all almost alone along also always amazing among anchor angle animal answer apartment
april arrow article artist asleep autumn avenue awake baby back bad bag bakery balance balcony
balloon bank bar barn basic basket bath battery beach beautiful because before begin behind bell
below beside best better between beyond big bill bird birthday biscuit bitter blanket blossom
board body bold bone border bottle bottom box boy branch brave break breakfast bridge bright
bring brisk brush bucket build building bundle button cabin cable calendar call camera camp
candle candy canoe canvas captain card care careful carpet carry castle catch cause cave ceiling
center chain chalk champion chance change chapter charm chase cheap cheerful chicken child
chimney choice church cinema city class clean clear clever climb clock close cloth coast coin
cold collect college comet comfort common compass computer concert cookie cool copy corner
correct cottage cotton count country courage cover crab craft crane crayon cream creek crisp
cross crowd crown crystal cup curious curtain curve custom daily dance danger dark daughter day
december deep delight desert design detail dinner direction dirty discover distance dolphin door
double down dragon dream dress drift drink drive drop dry dust early earth east easy echo edge
effort eight elbow electric empty end energy engine enjoy enough entry equal evening event every
exact example exit explain extra fable face fact fair fall family famous far farm fast father
feather february fence festival field figure final find fine finger finish fire first flag flame
flash flat float floor flour flower fog follow food forest forget fork forward fountain fragile
frame free fresh friday friend frog front frost frozen full fun funny future galaxy game garden
gate gentle giant gift girl give glacier glad glass globe glove glow go goal good grain grand
grass gravel great group grow guard guess guest guide habit half hammer handle happen happy
harbor hard harvest have hawk head heart heavy height hello helmet help hero hidden high hill
history hobby holiday home honest honey hope hotel hour house huge human hundred hungry hunt
hurry ice idea igloo ink inside island ivory jacket january jar jazz jelly jewel job join joke
journey joy judge juice july jump june jungle just keep kettle key kind king kiss kitchen kitten
knight know knowledge ladder lake language lantern large last late laugh laundry lava lawn leaf
learn leather left legend lesson letter level library light like line liquid listen little
living local lock long look loud love lovely low lucky lunch machine magic magnet mail make map
march market mask match maybe meadow meal measure medal melody member memory message metal meter
middle midnight mile milk mill mind minute mirror mist mitten model modern moment monday money
month moon morning moss most mother motor mountain move movie much museum mushroom music mystery
narrow nation native nature near needle neighbor nest never new next nice night noble noise noon
normal north note nothing notice november now number nut ocean october odd offer old open
opposite orchard order other outside oven over owner page paint pair palace pancake panel paper
parade parcel parent park part party passenger past path patient pattern pause pearl pebble
pencil people perfect person picnic picture piece pillow pipe pirate place plain plan plant
plastic play please plenty pocket poem poet point polite pond pony popcorn port postcard poster
powder power practice present pretty price prince princess print prize problem project promise
puddle pupil puppy purse quality queen question quick quiet quilt quite rabbit race radio
railway rainbow random reach read ready real reason record regular remember repair report rescue
rest result return rhythm ribbon rich riddle ride right ring ripe rise river road rock rocket
roll roof root rope rough round route royal rubber ruler run sad saddle safe sail salad salt
same sand saturday sauce save scale school science sea search season seat second secret seed
sentence september serious seven shadow shallow shape share sharp shelter shine shore short
shoulder shout sign signal silence silent silk simple sing sister size sketch skill skin sky
sleep sleepy slice slow small smart smell smile smoke smooth snail snake soap soft soil solid
some son song soon sound source south space spark special speed spider spin spirit splash sponge
spot square stable stage stairs stamp stand star start station statue stay steam step sticker
stone stop store story storm strange straw stream street strong student studio study sudden
sugar suit summit sunday sunny sunset super supper surface surprise sweet swift swim symbol
system tail talent talk tall taste taxi tea team temple ten tender tent test thank theater
theory thick thin thing think thread throne thumb thursday ticket tide tidy tiny title toast
today together tomorrow tonight tooth top torch total touch towel tower town track trade traffic
trail travel treasure trick trip trouble true trust truth tuesday tunnel turn turtle twelve
twenty twin umbrella under unique universe until upper useful valley value vase velvet very
victory view village vision visit visitor voice volcano wagon wait walk wall wallet walnut warm
wash watch wave weak wednesday week welcome west wet whale wheat wheel whisper whistle wide wild
window wing wire wise wish wizard wonder wonderful wood wool word work world worm write wrong
yard year yellow yes yesterday young zero zoo
""".split()

ALL_WORDS: list[str] = sorted(
    {w.lower() for v in KINDS.values() for w in v if " " not in w} | set(EXTRA_WORDS)
)

NAMES = """
Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olivia Paul Quinn Rosa
Sam Tina Uma Victor Wendy Xavier Yara Zoe Adam Alice Amir Amy Andre Arthur Beth Bob Bruno Carlos
Carmen Cathy Charlie Chen Chloe Daniel Daria Diana Dylan Elena Eli Elsa Eric Eva Fatima Finn
Frank Gina Hana Hannah Hugo Ian Ida Ingrid Isaac Ivan Jane Jason Jin Joe John Jonas Jose Julia
Karim Karl Kenji Kim Klaus Laila Lara Laura Lena Li Liam Lily Linda Lisa Luca Lucy Luis Magda
Marco Maria Marie Mark Martin Mary Max Maya Mei Mina Minho Mohamed Nadia Nina Nora Oleg Omar
Oscar Otto Pablo Paula Peter Petra Pia Priya Rachel Raj Ralf Ravi Rita Robert Robin Rosie Ruth
Sara Sasha Simon Sofia Stefan Sunny Susan Tanya Theo Thomas Tim Toby Tom Ursula Vera Viktor
Walter Will Yuki Yuna Yusuf Zara Priscilla Gustav Marta Alex Ahmed Aisha Jisoo Seojun Hiro Nils
Lotte Freya Greta Bianca Samuel Sophie Emily James Michael Sarah Steve Kevin Brian Nick Tony
Maggie Molly Polly Rex Bella Luna Milo Daisy Rocky Simba Coco Buddy Oreo
""".split()

SURNAMES = (
    "Smith Brown Miller Kim Lopez Weber Rossi Novak Tanaka Khan Silva Berg Olsen Moreau Park"
).split()

CAPITALS: dict[str, str] = {
    "France": "Paris",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Portugal": "Lisbon",
    "United Kingdom": "London",
    "Ireland": "Dublin",
    "Netherlands": "Amsterdam",
    "Belgium": "Brussels",
    "Switzerland": "Bern",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Czech Republic": "Prague",
    "Hungary": "Budapest",
    "Greece": "Athens",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Iceland": "Reykjavik",
    "Russia": "Moscow",
    "Ukraine": "Kyiv",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Serbia": "Belgrade",
    "Croatia": "Zagreb",
    "Turkey": "Ankara",
    "Egypt": "Cairo",
    "Morocco": "Rabat",
    "Kenya": "Nairobi",
    "Nigeria": "Abuja",
    "Ethiopia": "Addis Ababa",
    "Israel": "Jerusalem",
    "Saudi Arabia": "Riyadh",
    "Iran": "Tehran",
    "India": "New Delhi",
    "China": "Beijing",
    "Japan": "Tokyo",
    "South Korea": "Seoul",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Indonesia": "Jakarta",
    "Philippines": "Manila",
    "Australia": "Canberra",
    "New Zealand": "Wellington",
    "United States": "Washington, D.C.",
    "Canada": "Ottawa",
    "Mexico": "Mexico City",
    "Brazil": "Brasilia",
    "Argentina": "Buenos Aires",
    "Chile": "Santiago",
    "Peru": "Lima",
    "Colombia": "Bogota",
    "Cuba": "Havana",
}
COUNTRY_ALIASES: dict[str, list[str]] = {
    "United Kingdom": ["England", "the UK", "Great Britain", "Britain", "the United Kingdom"],
    "United States": [
        "the USA",
        "the US",
        "America",
        "the United States",
        "the United States of America",
    ],
    "South Korea": ["Korea"],
    "Netherlands": ["the Netherlands", "Holland"],
    "Czech Republic": ["the Czech Republic", "Czechia"],
    "Philippines": ["the Philippines"],
}
UNKNOWN_PLACES = """
Albania Algeria Angola Armenia Bahrain Bangladesh Belarus Belize Benin Bhutan Bolivia Botswana
Brunei Burundi Cambodia Cameroon Chad Comoros Cyprus Djibouti Dominica Ecuador Eritrea Estonia
Fiji Gabon Gambia Ghana Guatemala Guinea Guyana Haiti Honduras Jamaica Kiribati Kuwait Laos
Latvia Lebanon Lesotho Liberia Libya Lithuania Luxembourg Madagascar Malawi Malaysia Maldives
Mali Malta Mauritius Moldova Monaco Mongolia Montenegro Mozambique Myanmar Namibia Nauru Nepal
Nicaragua Niger Oman Pakistan Panama Paraguay Qatar Rwanda Samoa Senegal Slovakia Slovenia
Somalia Sudan Suriname Syria Tajikistan Tanzania Togo Tonga Tunisia Tuvalu Uganda Uruguay
Uzbekistan Vanuatu Venezuela Yemen Zambia Zimbabwe Narnia Atlantis Mordor Texas Bavaria
California Wakanda
""".split()

LANGUAGES = ["Spanish", "French", "German", "Korean"]
TRANSLATIONS: dict[str, list[str]] = {  # English -> Spanish, French, German, Korean
    "red": ["rojo", "rouge", "rot", "빨간색"],
    "blue": ["azul", "bleu", "blau", "파란색"],
    "green": ["verde", "vert", "grün", "초록색"],
    "yellow": ["amarillo", "jaune", "gelb", "노란색"],
    "black": ["negro", "noir", "schwarz", "검은색"],
    "white": ["blanco", "blanc", "weiß", "흰색"],
    "orange": ["naranja", "orange", "orange", "주황색"],
    "pink": ["rosa", "rose", "rosa", "분홍색"],
    "brown": ["marrón", "marron", "braun", "갈색"],
    "purple": ["morado", "violet", "lila", "보라색"],
    "grey": ["gris", "gris", "grau", "회색"],
    "one": ["uno", "un", "eins", "하나"],
    "two": ["dos", "deux", "zwei", "둘"],
    "three": ["tres", "trois", "drei", "셋"],
    "four": ["cuatro", "quatre", "vier", "넷"],
    "five": ["cinco", "cinq", "fünf", "다섯"],
    "six": ["seis", "six", "sechs", "여섯"],
    "seven": ["siete", "sept", "sieben", "일곱"],
    "eight": ["ocho", "huit", "acht", "여덟"],
    "nine": ["nueve", "neuf", "neun", "아홉"],
    "ten": ["diez", "dix", "zehn", "열"],
    "hello": ["hola", "bonjour", "hallo", "안녕하세요"],
    "goodbye": ["adiós", "au revoir", "auf Wiedersehen", "안녕히 가세요"],
    "thank you": ["gracias", "merci", "danke", "감사합니다"],
    "please": ["por favor", "s'il vous plaît", "bitte", "부탁합니다"],
    "good morning": ["buenos días", "bonjour", "guten Morgen", "좋은 아침"],
    "good night": ["buenas noches", "bonne nuit", "gute Nacht", "안녕히 주무세요"],
    "yes": ["sí", "oui", "ja", "네"],
    "no": ["no", "non", "nein", "아니요"],
}
TRANSLATION_ALIASES: dict[str, list[str]] = {
    "hello": ["hi"],
    "goodbye": ["bye", "good bye"],
    "thank you": ["thanks"],
    "grey": ["gray"],
}
DIGIT_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
""".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """
January February March April May June July August September October November December
""".split()

EMOJI: dict[str, str] = {
    k: v
    for v, ks in {
        "😊": "happy, happiness, joy, a smile, smiling, glad, good mood, a good day",
        "😢": "sad, sadness, crying, tears, a bad day",
        "😡": "angry, anger, mad, furious",
        "😴": "sleepy, tired, sleep, sleeping, bedtime",
        "😂": "laughing, funny, a joke, laughter, lol",
        "😱": "scared, fear, shocked, afraid, horror",
        "😮": "surprised, surprise, wow",
        "😎": "cool, sunglasses",
        "🤔": "thinking, a question, hmm",
        "🤒": "sick, ill, a fever",
        "💛": "love, a heart, heart, in love",
        "👍": "yes, thumbs up, okay, agree, good job, well done",
        "👎": "no, thumbs down, disagree",
        "👋": "hello, goodbye, waving, hi, bye",
        "🙏": "thank you, thanks, please, praying",
        "👏": "applause, clapping, bravo",
        "🎉": "party, a party, congratulations, celebration, new year",
        "🎂": "birthday, a birthday, happy birthday, birthday cake",
        "🎁": "a gift, gift, present, a present",
        "🎄": "Christmas, a Christmas tree",
        "🐱": "cat, a cat, kitten",
        "🐶": "dog, a dog, puppy",
        "🐭": "mouse, a mouse",
        "🐰": "rabbit, a rabbit, bunny",
        "🦊": "fox, a fox",
        "🐻": "bear, a bear",
        "🐼": "panda, a panda",
        "🦁": "lion, a lion",
        "🐯": "tiger, a tiger",
        "🐮": "cow, a cow",
        "🐷": "pig, a pig",
        "🐸": "frog, a frog",
        "🐵": "monkey, a monkey",
        "🐔": "chicken, a chicken",
        "🐧": "penguin, a penguin",
        "🐦": "bird, a bird",
        "🐟": "fish, a fish",
        "🐘": "elephant, an elephant",
        "🐴": "horse, a horse",
        "🐝": "bee, a bee",
        "🦋": "butterfly, a butterfly",
        "🐍": "snake, a snake",
        "🐢": "turtle, a turtle",
        "🍎": "apple, an apple",
        "🍌": "banana, a banana",
        "🍓": "strawberry, a strawberry",
        "🍋": "lemon, a lemon",
        "🍇": "grapes, grape",
        "🍕": "pizza, a pizza",
        "🍞": "bread",
        "🧀": "cheese",
        "🍰": "cake, a cake",
        "🍪": "cookie, a cookie",
        "🍦": "ice cream",
        "☕": "coffee, tea, a cup of coffee",
        "🍺": "beer",
        "🍔": "burger, a hamburger, hungry",
        "🌞": "sun, the sun, sunny, sunny weather, summer",
        "🌙": "moon, the moon, night, good night",
        "⭐": "star, a star",
        "🌧": "rain, rainy, rainy weather, a rainy day",
        "⛄": "snow, snowman, winter, snowy, cold",
        "🌈": "rainbow, a rainbow",
        "🔥": "fire, hot, flames",
        "🌳": "tree, a tree, forest",
        "🌹": "rose, a rose",
        "🌸": "flower, a flower, spring",
        "🌊": "sea, the sea, ocean, a wave, the ocean",
        "🌍": "earth, the earth, the world, planet",
        "🏠": "house, a house, home",
        "🚗": "car, a car",
        "🚂": "train, a train",
        "🚲": "bike, a bike, bicycle",
        "🚀": "rocket, a rocket, space",
        "⚽": "soccer, football, a ball",
        "🏀": "basketball",
        "🎵": "music, a song, singing",
        "🎸": "guitar, a guitar",
        "📚": "books, a book, reading, school",
        "💻": "computer, a computer, laptop",
        "📱": "phone, a phone",
        "⏰": "time, alarm, a clock, clock",
        "💰": "money, rich",
        "🔑": "key, a key",
        "💡": "idea, an idea, light",
        "🎈": "balloon, a balloon",
    }.items()
    for k in ks.split(", ")
}
